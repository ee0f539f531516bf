//! Streams that lend room for their bytes.

use std::io::{self, Write};

/// A stream that lends its own buffer, so that files are read straight into it.
///
/// Bytes come either way, in any mixture: written, or put into the [`room`](Room::room) and told by
/// [`filled`](Room::filled).
pub trait Room: Write {
    /// Room for the next bytes of the stream, never empty. What is in it means nothing. May wait
    /// until bytes before it are taken.
    ///
    /// # Errors
    /// Why the stream takes no more.
    fn room(&mut self) -> io::Result<&mut [u8]>;

    /// Takes the first `length` bytes of the room that was lent last.
    ///
    /// # Errors
    /// Why the stream takes no more.
    ///
    /// # Panics
    /// If there was less room.
    fn filled(&mut self, length: usize) -> io::Result<()>;
}

impl<R: Room + ?Sized> Room for &mut R {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        (**self).room()
    }

    fn filled(&mut self, length: usize) -> io::Result<()> {
        (**self).filled(length)
    }
}

/// Lends room for a stream that has none: a buffer of its own, written as soon as it is filled.
///
/// ```
/// use std::io::{Read as _, Write as _};
///
/// use ashlar_solver::tree::{Lent, Room as _};
///
/// let mut stream = Lent::new(Vec::new(), 4096);
/// stream.write_all(b"a file: ")?;
/// let length = (&b"its bytes"[..]).read(stream.room()?)?;
/// stream.filled(length)?;
/// assert_eq!(stream.into_inner(), b"a file: its bytes");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Lent<W> {
    stream: W,
    room: Vec<u8>,
}

impl<W: Write> Lent<W> {
    /// Lends `size` bytes of room, one at least.
    pub fn new(stream: W, size: usize) -> Self {
        Self {
            stream,
            room: vec![0; size.max(1)],
        }
    }

    /// The stream, which has all bytes.
    pub fn into_inner(self) -> W {
        self.stream
    }
}

impl<W: Write> Write for Lent<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<W: Write> Room for Lent<W> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        Ok(&mut self.room)
    }

    fn filled(&mut self, length: usize) -> io::Result<()> {
        self.stream.write_all(&self.room[..length])
    }
}
