//! Pieces that come in any order, written in theirs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ashlar_llb::DiffId;
use flate2::Crc;
use sha2::{Digest as _, Sha256};

use super::codec::{Codecs, GZIP_HEADER, Piece};
use super::toc::Contents;
use super::{Told, Work};
use crate::Compression;

/// What is known when a stream has been cut.
#[derive(Default)]
pub(super) struct End {
    /// How many blocks it had.
    pub(super) blocks: u64,
    /// Bytes of the stream.
    pub(super) size: u64,
    /// The hash of the stream, where it is not that of the blob.
    pub(super) hash: Option<Sha256>,
    /// The table of contents, but for where in the blob things are.
    pub(super) contents: Option<Contents>,
}

/// The output of one work.
pub(super) struct Ordered<W: Work>(Mutex<State<W>>);

struct State<W: Work> {
    /// Absent before the work began, while a thread writes, and after the end.
    file: Option<Output<W::Output>>,
    /// Pieces that were not written, with what they count in the budget.
    early: BTreeMap<u64, (Piece, usize)>,
    end: Option<End>,
    made: Option<W::Made>,
}

struct Output<O> {
    to: O,
    /// The number of the next piece.
    next: u64,
    written: u64,
    /// Where members begin, by block; kept where somebody wants to know.
    members: Vec<Vec<u64>>,
    crc: Crc,
}

impl<W: Work> Ordered<W> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            file: None,
            early: BTreeMap::new(),
            end: None,
            made: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, to: W::Output) {
        self.state().file = Some(Output {
            to,
            next: 0,
            written: 0,
            members: Vec::new(),
            crc: Crc::new(),
        });
    }

    pub(super) fn made(&self, made: W::Made) {
        self.state().made = Some(made);
    }

    pub(super) fn into_made(self) -> Option<W::Made> {
        let state = self.0.into_inner();
        state.unwrap_or_else(PoisonError::into_inner).made
    }

    pub(super) fn add(&self, number: u64, piece: Piece, reserved: usize) {
        self.state().early.insert(number, (piece, reserved));
    }

    pub(super) fn end(&self, end: End) {
        self.state().end = Some(end);
    }

    /// Writes what can be written, and ends the blob when all is. If another thread writes at this
    /// moment, that one does it.
    pub(super) fn advance(
        &self,
        work: &W,
        codecs: &mut Codecs,
        freed: &mut dyn FnMut(Vec<u8>, usize),
    ) -> Result<(), W::Error> {
        let mut state = self.state();
        loop {
            let Some(mut file) = state.file.take() else {
                return Ok(());
            };
            if let Some((piece, reserved)) = state.early.remove(&file.next) {
                drop(state);
                file.write(work.compression(), &piece)?;
                freed(piece.bytes, reserved);
                state = self.state();
                state.file = Some(file);
                continue;
            }
            let all = |end: &End| end.blocks == file.next;
            match state.end.take_if(|end| all(end)) {
                Some(end) => {
                    drop(state);
                    let told = file.finish(work.compression(), end, codecs)?;
                    let made = work.finish(file.to, told)?;
                    self.state().made = Some(made);
                }
                None => state.file = Some(file),
            }
            return Ok(());
        }
    }
}

impl<O: Write> Output<O> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn write(&mut self, compression: Compression, piece: &Piece) -> io::Result<()> {
        if self.next == 0 && matches!(compression, Compression::GzipStream { .. }) {
            self.put(&GZIP_HEADER)?;
        }
        if matches!(compression, Compression::Estargz { .. }) {
            let at = |member: &usize| self.written + *member as u64;
            self.members.push(piece.members.iter().map(at).collect());
        }
        if let Some(crc) = &piece.crc {
            self.crc.combine(crc);
        }
        self.put(&piece.bytes)?;
        self.next += 1;
        Ok(())
    }

    /// Writes what follows the blocks.
    fn finish(
        &mut self,
        compression: Compression,
        end: End,
        codecs: &mut Codecs,
    ) -> io::Result<Told> {
        let End {
            mut size,
            mut hash,
            contents,
            ..
        } = end;
        if matches!(compression, Compression::GzipStream { .. }) {
            let mut trailer = self.crc.sum().to_le_bytes().to_vec();
            trailer.extend_from_slice(&self.crc.amount().to_le_bytes());
            self.put(&trailer)?;
        }
        let mut digest = None;
        if let Some(contents) = contents {
            let written = contents.write(&self.members)?;
            let mut member = Vec::new();
            codecs.member(compression.level(), &written.tar, &mut member)?;
            let offset = self.written;
            self.put(&member)?;
            self.put(&super::estargz::footer(offset))?;
            size += written.tar.len() as u64;
            if let Some(hash) = &mut hash {
                hash.update(&written.tar);
            }
            digest = Some(written.digest);
        }
        self.to.flush()?;
        Ok(Told {
            diff_id: hash.map(|hash| DiffId::from_bytes(hash.finalize().into())),
            size,
            contents: digest,
        })
    }
}
