//! Gzip on several threads, with bytes that do not depend on their number.
//!
//! The input is cut into blocks of 1 MiB; each becomes a gzip member of its own (RFC 1952 allows a
//! file of several), so that blocks can be compressed at the same time and written in order. The
//! members carry no time and no file name. Memory: a few blocks per thread, whatever the input.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

use libdeflater::{CompressionLvl, Compressor};

/// Bytes per member. Smaller ones cost ratio (0.1 % at this size), larger ones memory.
const BLOCK: usize = 1 << 20;

/// Compresses what `produce` writes and writes it to `out`.
pub(crate) fn compress<T, E: From<io::Error>>(
    level: CompressionLvl,
    threads: NonZero<usize>,
    out: &mut (dyn Write + Send),
    produce: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        let mut blocks = Blocks {
            scope,
            level,
            threads,
            out: Some(out),
            current: Vec::new(),
            pool: None,
        };
        let value = produce(&mut blocks)?;
        blocks.finish()?;
        Ok(value)
    })
}

/// A block and its place in the order.
type Numbered = (u64, Vec<u8>);

/// Cuts the input into blocks; starts threads with the first full one.
struct Blocks<'scope, 'env, 'out> {
    scope: &'scope Scope<'scope, 'env>,
    level: CompressionLvl,
    threads: NonZero<usize>,
    /// Moves into the writing thread.
    out: Option<&'out mut (dyn Write + Send)>,
    current: Vec<u8>,
    pool: Option<Pool<'scope>>,
}

/// The threads: workers that compress, and one that writes in order.
struct Pool<'scope> {
    /// Bounded, so that a fast producer waits.
    work: SyncSender<Numbered>,
    next: u64,
    writer: ScopedJoinHandle<'scope, io::Result<()>>,
}

impl<'scope, 'out: 'scope> Blocks<'scope, '_, 'out> {
    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.current, Vec::with_capacity(BLOCK));
        if self.pool.is_none() {
            self.start()?;
        }
        let pool = self.pool.as_mut().expect("BUG: the pool was just started");
        let numbered = (pool.next, block);
        pool.next += 1;
        // Fails only if the writer gave up; finish() then tells why.
        pool.work
            .send(numbered)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn start(&mut self) -> io::Result<()> {
        let out = self.out.take().expect("BUG: the pool is started once");
        let (work, todo) = sync_channel(self.threads.get());
        let todo = Arc::new(Mutex::new(todo));
        let (done, results) = channel();
        for _ in 0..self.threads.get() {
            let (todo, done, level) = (todo.clone(), done.clone(), self.level);
            let builder = std::thread::Builder::new().name("ashlar-gzip".to_owned());
            builder.spawn_scoped(self.scope, move || work_off(level, &todo, &done))?;
        }
        let builder = std::thread::Builder::new().name("ashlar-gzip".to_owned());
        // The writer owns the queue as well: when it gives up, producer and workers notice.
        let writer = builder.spawn_scoped(self.scope, move || write_in_order(&results, out))?;
        self.pool = Some(Pool {
            work,
            next: 0,
            writer,
        });
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.pool.is_none() {
            let out = self
                .out
                .take()
                .expect("BUG: without a pool the output is still here");
            return out.write_all(&member(&mut Compressor::new(self.level), &self.current)?);
        }
        let sent = if self.current.is_empty() {
            Ok(())
        } else {
            self.send()
        };
        let pool = self.pool.take().expect("BUG: checked above");
        drop(pool.work);
        let written = pool
            .writer
            .join()
            .map_err(|_| io::Error::other("the writer panicked"))?;
        written.and(sent)
    }
}

impl<'scope, 'out: 'scope> Write for Blocks<'scope, '_, 'out> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(BLOCK - self.current.len());
        self.current.extend_from_slice(&data[..taken]);
        if self.current.len() == BLOCK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work_off(
    level: CompressionLvl,
    todo: &Mutex<Receiver<Numbered>>,
    done: &Sender<io::Result<Numbered>>,
) {
    let mut compressor = Compressor::new(level);
    loop {
        let next = todo
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .recv();
        let Ok((number, block)) = next else { return };
        let result = member(&mut compressor, &block).map(|member| (number, member));
        if done.send(result).is_err() {
            return;
        }
    }
}

fn write_in_order(
    results: &Receiver<io::Result<Numbered>>,
    out: &mut (dyn Write + Send),
) -> io::Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Ok(result) = results.recv() {
        let (number, member) = result?;
        early.insert(number, member);
        while let Some(member) = early.remove(&next) {
            out.write_all(&member)?;
            next += 1;
        }
    }
    Ok(())
}

fn member(compressor: &mut Compressor, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
    let size = compressor
        .gzip_compress(block, &mut out)
        .map_err(io::Error::other)?;
    out.truncate(size);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn run(threads: usize, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let threads = NonZero::new(threads).unwrap();
        compress::<_, io::Error>(
            CompressionLvl::new(4).unwrap(),
            threads,
            &mut out,
            |writer| {
                data.chunks(70_001)
                    .try_for_each(|chunk| writer.write_all(chunk))
            },
        )
        .unwrap();
        out
    }

    #[test]
    fn bytes_depend_on_the_input_alone_and_inflate_to_it() {
        let data: Vec<u8> = (0..5_300_000_u32)
            .flat_map(|n| (n / 7 * 31).to_le_bytes())
            .take(5_300_000)
            .collect();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, data.len()] {
            let one = run(1, &data[..length]);
            assert_eq!(one, run(3, &data[..length]), "{length}");
            let mut inflated = Vec::new();
            flate2::read::MultiGzDecoder::new(&one[..])
                .read_to_end(&mut inflated)
                .unwrap();
            assert_eq!(inflated, &data[..length]);
            assert_eq!(one[4..8], [0; 4], "no time");
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_hang() {
        let result: Result<(), io::Error> = compress(
            CompressionLvl::new(1).unwrap(),
            NonZero::new(2).unwrap(),
            &mut Full,
            |writer| (0..64).try_for_each(|_| writer.write_all(&vec![7; BLOCK])),
        );
        assert!(result.is_err());
    }
}
