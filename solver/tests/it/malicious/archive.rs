//! Archives byte by byte, also such as no tool writes.

const BLOCK: usize = 512;

/// An archive that is being put together.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

/// One header of the format ustar. The fields are texts, so that they can be wrong.
#[derive(Clone)]
pub(crate) struct Entry {
    name: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: Vec<u8>,
    uid: Vec<u8>,
    size: Option<Vec<u8>>,
    device: [u32; 2],
    data: Vec<u8>,
}

impl Entry {
    pub(crate) fn new(kind: u8, name: &str) -> Self {
        Self {
            name: name.into(),
            kind,
            link: Vec::new(),
            mode: b"0000644\0".to_vec(),
            uid: b"0000000\0".to_vec(),
            size: None,
            device: [0; 2],
            data: Vec::new(),
        }
    }

    pub(crate) fn file(name: &str, data: &str) -> Self {
        Self {
            data: data.into(),
            ..Self::new(b'0', name)
        }
    }

    pub(crate) fn symlink(name: &str, target: &str) -> Self {
        Self {
            link: target.into(),
            ..Self::new(b'2', name)
        }
    }

    pub(crate) fn hard_link(name: &str, target: &str) -> Self {
        Self {
            link: target.into(),
            ..Self::new(b'1', name)
        }
    }

    pub(crate) fn directory(name: &str) -> Self {
        Self::new(b'5', name).mode("0000755\0")
    }

    pub(crate) fn char_device(name: &str, major: u32, minor: u32) -> Self {
        Self {
            device: [major, minor],
            ..Self::new(b'3', name)
        }
    }

    pub(crate) fn mode(self, mode: &str) -> Self {
        let mode = mode.into();
        Self { mode, ..self }
    }

    pub(crate) fn uid(self, uid: impl Into<Vec<u8>>) -> Self {
        let uid = uid.into();
        Self { uid, ..self }
    }

    /// The size that the header tells, whatever data follow.
    pub(crate) fn size(self, size: impl Into<Vec<u8>>) -> Self {
        let size = Some(size.into());
        Self { size, ..self }
    }

    pub(crate) fn data(self, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        Self { data, ..self }
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, most: usize, text: &[u8]| {
            let length = text.len().min(most);
            block[at..at + length].copy_from_slice(&text[..length]);
        };
        put(0, 100, &self.name);
        put(100, 8, &self.mode);
        put(108, 8, &self.uid);
        put(116, 8, b"0000000\0");
        let size = format!("{:011o}\0", self.data.len()).into_bytes();
        put(124, 12, self.size.as_ref().unwrap_or(&size));
        put(136, 12, b"14000000000\0");
        put(148, 8, b"        ");
        put(156, 1, &[self.kind]);
        put(157, 100, &self.link);
        put(257, 8, b"ustar\x0000");
        for (at, number) in [329, 337].into_iter().zip(self.device) {
            put(at, 8, format!("{number:07o}\0").as_bytes());
        }
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, entry: Entry) -> Self {
        self.0.extend_from_slice(&entry.block());
        self.0.extend_from_slice(&entry.data);
        let whole = self.0.len().next_multiple_of(BLOCK);
        self.0.resize(whole, 0);
        self
    }

    pub(crate) fn entries(self, entries: impl IntoIterator<Item = Entry>) -> Self {
        entries.into_iter().fold(self, Self::entry)
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            data.extend_from_slice(&record(key, value));
        }
        self.entry(Entry::new(b'x', "pax").data(data))
    }

    /// PAX records as they are.
    pub(crate) fn raw_pax(self, data: &str) -> Self {
        self.entry(Entry::new(b'x', "pax").data(data))
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        let whole = self.0.len() + 2 * BLOCK;
        self.0.resize(whole, 0);
        self.0
    }

    /// Without an end, and without the last bytes.
    pub(crate) fn cut(mut self, bytes: usize) -> Vec<u8> {
        self.0.truncate(self.0.len() - bytes);
        self.0
    }
}

/// A record, which tells its own length.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}
