use std::io::{self, Read as _};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

mod estargz;

/// A stream in memory.
struct Memory<'a> {
    compression: Compression,
    data: &'a [u8],
    fail: Option<usize>,
}

#[derive(Debug)]
enum Failed {
    Cancelled,
    Io(io::Error),
    Produce,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Cancelled> for Failed {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Work for Memory<'_> {
    type Output = Vec<u8>;
    type Made = (Vec<u8>, Told);
    type Error = Failed;

    fn compression(&self) -> Compression {
        self.compression
    }

    fn open(&self) -> Result<Opened<Vec<u8>, Self::Made>, Failed> {
        Ok(Opened::Output(Vec::new()))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), Failed> {
        let end = self.fail.unwrap_or(self.data.len());
        for (number, chunk) in self.data[..end].chunks(70_001).enumerate() {
            let mut rest = chunk;
            while number % 3 == 1 && !rest.is_empty() {
                let room = stream.room()?;
                let length = room.len().min(rest.len()).min(40_000);
                room[..length].copy_from_slice(&rest[..length]);
                stream.filled(length)?;
                rest = &rest[length..];
            }
            stream.write_all(rest)?;
        }
        match self.fail {
            Some(_) => Err(Failed::Produce),
            None => Ok(()),
        }
    }

    fn finish(&self, output: Vec<u8>, told: Told) -> Result<Self::Made, Failed> {
        Ok((output, told))
    }
}

fn threads(threads: usize) -> NonZero<usize> {
    NonZero::new(threads).unwrap()
}

fn make(count: usize, compression: Compression, data: &[u8]) -> (Vec<u8>, Told) {
    let work = Memory {
        compression,
        data,
        fail: None,
    };
    let made = run_on(threads(count), &[work], &Cancel::new());
    made.unwrap().remove(0)
}

/// Compresses somewhat.
fn data(length: u32) -> Vec<u8> {
    let words = (0..length / 4).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes());
    words.collect()
}

fn inflate(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match compression {
        Compression::Uncompressed => out.extend_from_slice(bytes),
        // One member alone.
        Compression::GzipStream { .. } => {
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            decoder.read_to_end(&mut out).unwrap();
            assert!(decoder.into_inner().is_empty(), "nothing follows");
        }
        Compression::Gzip { .. } | Compression::Estargz { .. } => {
            let mut decoder = flate2::read::MultiGzDecoder::new(bytes);
            decoder.read_to_end(&mut out).unwrap();
        }
        Compression::Zstd { .. } => out = zstd::decode_all(bytes).unwrap(),
    }
    out
}

/// All but eStargz, which wants a tar.
fn plain() -> impl Iterator<Item = Compression> {
    let kinds = Compression::ALL.into_iter();
    kinds.filter(|kind| !matches!(kind, Compression::Estargz { .. }))
}

fn check(compression: Compression, input: &[u8]) {
    let length = input.len();
    let (one, told) = make(1, compression, input);
    assert!(
        inflate(compression, &one) == input,
        "{compression} {length}"
    );
    assert_eq!(told.size, length as u64);
    let diff_id = told.diff_id;
    assert_eq!(diff_id.is_none(), compression == Compression::Uncompressed);
    assert!(diff_id.is_none_or(|id| id == DiffId::of(input)));
    for count in [2, 8] {
        let (more, _) = make(count, compression, input);
        assert!(one == more, "{compression} {length} {count}");
    }
}

#[test]
fn bytes_depend_on_the_input_alone_and_inflate_to_it() {
    let block = 1 << 20;
    let data = data(2_200_000);
    for compression in plain() {
        let compression = compression.with_level(1).unwrap();
        for length in [0, 1, block, data.len()] {
            check(compression, &data[..length]);
        }
    }
}

#[test]
fn every_level_gives_what_was_put_in() {
    let data = data(50_000);
    for kind in plain() {
        for level in kind.levels() {
            check(kind.with_level(level).unwrap(), &data);
        }
    }
}

/// Bytes without any order.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hash = [7; 32];
    for chunk in bytes.chunks_mut(32) {
        hash = *BlobDigest::of(&hash).as_bytes();
        chunk.copy_from_slice(&hash[..chunk.len()]);
    }
    bytes
}

#[test]
fn what_does_not_get_smaller_is_stored() {
    let mut mixed = data(300_000);
    mixed.extend(noise(900_000));
    mixed.extend(data(500_000));
    for level in [1, 5, 9] {
        let compression = Compression::Gzip { level };
        check(compression, &mixed);
        let (all, _) = make(2, compression, &mixed);
        let (words, _) = make(2, compression, &mixed[1_200_000..]);
        let stored = all.len() - words.len() * 8 / 5;
        let share = stored as f64 / 900_000.0;
        assert!((0.99..1.01).contains(&share), "{level}: {share}");
    }
}

#[test]
fn frames_of_zstd_see_what_stands_some_megabytes_before() {
    let mut twice = noise(4 << 20);
    twice.extend_from_within(..);
    let compression = Compression::Zstd { level: 3 };
    check(compression, &twice);
    let (bytes, _) = make(2, compression, &twice);
    assert!(bytes.len() < 5 << 20, "{}", bytes.len());
}

#[test]
fn text_is_compressed_as_the_level_of_zstd_says_and_other_bytes_in_less_time() {
    let text = b"a few words, ".iter().copied().cycle().take(3_000_000);
    let text: Vec<u8> = text
        .zip(noise(3_000_000))
        .map(|(a, b)| a ^ (b & 1))
        .collect();
    let other: Vec<u8> = text.iter().map(|byte| byte | 0x80).collect();
    for (bytes, level, as_it_says) in [
        (&text, 3, true),
        (&other, 3, false),
        (&other, 4, true),
        (&other, 2, true),
    ] {
        let compression = Compression::Zstd { level };
        check(compression, bytes);
        let (ours, _) = make(2, compression, bytes);
        let mut codec = zstd::bulk::Compressor::new(i32::from(level)).unwrap();
        codec.window_log(23).unwrap();
        let theirs = codec.compress(bytes).unwrap();
        assert_eq!(ours == theirs, as_it_says, "{level}");
    }
}

#[test]
fn members_carry_no_time() {
    for compression in [
        Compression::Gzip { level: 4 },
        Compression::GzipStream { level: 6 },
    ] {
        let (bytes, _) = make(2, compression, &data(1_100_000));
        assert_eq!(bytes[..4], [0x1f, 0x8b, 8, 0]);
        assert_eq!(bytes[4..8], [0; 4]);
    }
}

#[test]
fn one_stream_is_hardly_larger_than_what_zlib_makes() {
    let data = data(1_500_000);
    let (ours, _) = make(2, Compression::GzipStream { level: 6 }, &data);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&data).unwrap();
    let theirs = encoder.finish().unwrap();
    let (ours, theirs) = (ours.len() as f64, theirs.len() as f64);
    assert!(ours < theirs * 1.01, "{ours} {theirs}");
}

#[test]
fn many_streams_at_once_come_back_in_their_order() {
    let data = data(1_300_000);
    let works: Vec<Memory<'_>> = (0..40)
        .map(|at| Memory {
            compression: plain().nth(at % 4).unwrap(),
            data: &data[..at * at * 800],
            fail: None,
        })
        .collect();
    for count in [1, 8] {
        let made = run_on(threads(count), &works, &Cancel::new()).unwrap();
        for (work, (bytes, _)) in works.iter().zip(&made) {
            assert!(inflate(work.compression, bytes) == work.data);
        }
    }
}

/// Counts what is under way: what was produced and not yet written.
struct Counted {
    under_way: AtomicUsize,
    most: AtomicUsize,
}

struct Endless<'a>(&'a Counted, usize);

struct Slow<'a>(&'a Counted);

impl Write for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Slower than they are made.
        std::thread::sleep(std::time::Duration::from_micros(300));
        self.0.under_way.fetch_sub(bytes.len(), Ordering::SeqCst);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> Work for Endless<'a> {
    type Output = Slow<'a>;
    type Made = ();
    type Error = Failed;

    fn compression(&self) -> Compression {
        Compression::Uncompressed
    }

    fn open(&self) -> Result<Opened<Slow<'a>, ()>, Failed> {
        Ok(Opened::Output(Slow(self.0)))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), Failed> {
        for _ in 0..self.1 {
            let now = self.0.under_way.fetch_add(1 << 16, Ordering::SeqCst);
            self.0.most.fetch_max(now, Ordering::SeqCst);
            stream.write_all(&[0; 1 << 16])?;
        }
        Ok(())
    }

    fn finish(&self, _: Slow<'a>, _: Told) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn memory_is_bounded_whatever_the_number_and_size_of_streams() {
    let counted = Counted {
        under_way: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    };
    let works: Vec<Endless<'_>> = (0..60).map(|_| Endless(&counted, 64)).collect();
    run_on(threads(4), &works, &Cancel::new()).unwrap();
    let most = counted.most.load(Ordering::SeqCst);
    assert_eq!(counted.under_way.load(Ordering::SeqCst), 0);
    // 8 MiB for each thread, and what each of them has in its hands.
    assert!(most <= 4 * (9 << 20), "{most}");
}

#[test]
fn the_first_error_is_told_and_nothing_hangs() {
    let data = data(1_500_000);
    let work = |fail| Memory {
        compression: Compression::Gzip { level: 1 },
        data: &data,
        fail,
    };
    for at in [0, 5, 9] {
        let fail = |one| (one == at).then_some(1_200_000);
        let works: Vec<Memory<'_>> = (0..10).map(|one| work(fail(one))).collect();
        let error = run_on(threads(3), &works, &Cancel::new()).unwrap_err();
        assert!(matches!(error, Failed::Produce), "{error:?}");
    }
}

struct Full<'a>(&'a [u8]);

#[derive(Debug)]
struct NoSpace;

impl Write for NoSpace {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Work for Full<'_> {
    type Output = NoSpace;
    type Made = ();
    type Error = Failed;

    fn compression(&self) -> Compression {
        Compression::Zstd { level: 1 }
    }

    fn open(&self) -> Result<Opened<NoSpace, ()>, Failed> {
        Ok(Opened::Output(NoSpace))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), Failed> {
        Ok((0..20).try_for_each(|_| stream.write_all(self.0))?)
    }

    fn finish(&self, _: NoSpace, _: Told) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_hang() {
    let data = data(1_500_000);
    for count in [1, 3] {
        let error = run_on(threads(count), &[Full(&data)], &Cancel::new()).unwrap_err();
        let full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
        assert!(matches!(&error, Failed::Io(e) if full(e)), "{error:?}");
    }
}

/// Cancels itself on the way.
struct Cancels<'a>(&'a Cancel);

impl Work for Cancels<'_> {
    type Output = Vec<u8>;
    type Made = ();
    type Error = Failed;

    fn compression(&self) -> Compression {
        Compression::Gzip { level: 9 }
    }

    fn open(&self) -> Result<Opened<Vec<u8>, ()>, Failed> {
        Ok(Opened::Output(Vec::new()))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), Failed> {
        let mut written = 0;
        loop {
            if written == 40 {
                self.0.cancel();
            }
            written += 1;
            stream.write_all(&[7; 1 << 18])?;
        }
    }

    fn finish(&self, _: Vec<u8>, _: Told) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn cancelling_ends_it() {
    for count in [1, 4] {
        let cancel = Cancel::new();
        let works: Vec<Cancels<'_>> = (0..3).map(|_| Cancels(&cancel)).collect();
        let error = run_on(threads(count), &works, &cancel).unwrap_err();
        assert!(matches!(error, Failed::Cancelled), "{error:?}");
    }
}

struct Panics;

impl Work for Panics {
    type Output = Vec<u8>;
    type Made = ();
    type Error = Failed;

    fn compression(&self) -> Compression {
        Compression::Uncompressed
    }

    fn open(&self) -> Result<Opened<Vec<u8>, ()>, Failed> {
        Ok(Opened::Output(Vec::new()))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), Failed> {
        stream.write_all(&vec![0; 5 << 20])?;
        panic!("as the test wants it");
    }

    fn finish(&self, _: Vec<u8>, _: Told) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn a_panic_goes_on_and_leaves_no_thread_waiting() {
    let works: Vec<Panics> = (0..6).map(|_| Panics).collect();
    let panicked = Mutex::new(works);
    let run = std::panic::AssertUnwindSafe(|| {
        let works = panicked.lock().unwrap();
        run_on(threads(4), &works, &Cancel::new()).map(drop)
    });
    assert!(std::panic::catch_unwind(run).is_err());
}
