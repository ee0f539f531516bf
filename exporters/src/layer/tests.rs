use std::io;
use std::os::unix::fs::FileExt as _;

use ashlar_llb::{self as llb, Constraints, Platform, mkfile};
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::{SolveRequest, Solver};
use ashlar_solver::tree::Room;

use super::make::MakeError;
use super::*;
use crate::blocks::Work as _;

/// A tree of one layer.
async fn built(folder: &std::path::Path) -> BuildResult {
    let solver = Solver::builder().root(folder).build().unwrap();
    let state = llb::scratch().file(mkfile("/file", "text\n".repeat(1000)));
    let definition = state.marshal(&Constraints::new(Platform::of_target()));
    let request = SolveRequest::new(definition.unwrap());
    solver.solve(request).result().await.unwrap().result
}

/// Takes a tar, and raises a flag when it is asked for room so often.
struct Taken<'a> {
    room: Vec<u8>,
    bytes: Vec<u8>,
    asked: usize,
    last: Option<(usize, &'a Cancel)>,
}

impl<'a> Taken<'a> {
    fn new(last: Option<(usize, &'a Cancel)>) -> Self {
        Self {
            room: vec![0; 64 << 10],
            bytes: Vec::new(),
            asked: 0,
            last,
        }
    }
}

impl io::Write for Taken<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Room for Taken<'_> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        self.asked += 1;
        if let Some((last, cancel)) = self.last
            && self.asked == last
        {
            cancel.cancel();
        }
        Ok(&mut self.room)
    }

    fn filled(&mut self, length: usize) -> io::Result<()> {
        self.bytes.extend_from_slice(&self.room[..length]);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_tar_of_a_blob_is_read_until_it_is_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let result = built(folder.path()).await;
    let store = &result.store;
    let cancel = Cancel::new();
    let layer = result.reference().stack(&cancel).unwrap().layers();
    let request = LayerRequest {
        source: LayerSource::Stored(layer[0].clone()),
        latest: None,
    };
    let options = |compression| LayerOptions {
        compression,
        ..LayerOptions::default()
    };
    let estargz = options(Compression::Estargz { level: 5 });
    let made = layer_blobs(store, estargz, &[request], &cancel).unwrap();
    // A table of contents that is larger than what is read at once, as an image may have it.
    let file = store.blobs().open(&made[0].digest).unwrap().unwrap();
    let mut bytes = vec![0; usize::try_from(made[0].size).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.len() - 51;
    bytes.splice(at..at, vec![b'x'; 4 << 20]);
    let mut writer = store.blobs().writer().unwrap();
    io::Write::write_all(&mut writer, &bytes).unwrap();
    let written = writer.finish(None).unwrap();
    let blob = LayerBlob {
        digest: written.digest,
        size: written.size,
        ..made[0].clone()
    };
    let plain = options(Compression::Uncompressed);
    let convert = |cancel: &Cancel, taken: &mut Taken<'_>| {
        let origin = Origin::Blob(blob.clone());
        Making::new(store, origin, plain, None, cancel).produce(taken)
    };
    let mut whole = Taken::new(None);
    convert(&cancel, &mut whole).unwrap();
    assert!(whole.bytes.len() > 5000);
    // When it is asked for room for the last time, all of the tar was there.
    let mut taken = Taken::new(Some((whole.asked, &cancel)));
    let ended = convert(&cancel, &mut taken);
    assert_eq!(taken.bytes, whole.bytes);
    assert!(
        matches!(ended, Err(MakeError::Export(ExportError::Cancelled))),
        "{ended:?}"
    );
}
