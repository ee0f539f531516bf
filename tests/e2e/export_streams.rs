//! Outputs that are streams: pipes, devices, and whatever else takes bytes, or does not.

use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_exporters::{Compression, Docker, ExportError, Exporter, Oci, Tar};
use ashlar_llb::{self as llb, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::result::BuildResult;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::support::{self, runtime, solve, temp, then, tree};

/// More than a pipe holds.
async fn result(folder: &Path) -> BuildResult {
    let solver = support::solver(folder.join("state"));
    let text = "many\n".repeat(200_000);
    let state = llb::scratch().file(mkfile("/file", text).created(then()));
    solve(&solver, support::request(&state)).await.result
}

/// Every output of one stream.
fn exporters(path: &Path) -> [Box<dyn Exporter>; 3] {
    let plain = Compression::Uncompressed;
    [
        Box::new(Oci::archive(path).name("app:v1").compression(plain)),
        Box::new(Docker::archive(path).name("app:v1").compression(plain)),
        Box::new(Tar::file(path)),
    ]
}

/// Makes a named pipe.
pub fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_pipe_gets_the_bytes_of_the_file() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let (file, fifo) = (folder.path().join("file"), folder.path().join("fifo"));
        pipe(&fifo);
        for (as_file, as_pipe) in exporters(&file).iter().zip(exporters(&fifo)) {
            as_file.export(&result, &Cancel::new()).await.unwrap();
            // Somebody reads, some time after the export began to wait for that.
            let path = fifo.clone();
            let reader = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(60));
                fs::read(path).unwrap()
            });
            as_pipe.export(&result, &Cancel::new()).await.unwrap();
            assert!(reader.join().unwrap() == fs::read(&file).unwrap());
            assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        }
    });
}

#[test]
fn a_cancel_ends_the_wait_for_who_reads_a_pipe() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let fifo = folder.path().join("fifo");
        pipe(&fifo);
        // Nobody opens it, or somebody does and reads nothing.
        for opens in [false, true] {
            let _reader = opens.then(|| {
                // For both directions, which does not wait for anybody.
                fs::File::options()
                    .read(true)
                    .write(true)
                    .open(&fifo)
                    .unwrap()
            });
            for exporter in exporters(&fifo) {
                let cancel = Cancel::new();
                let raise = cancel.clone();
                let raised = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(60));
                    raise.cancel();
                });
                let error = exporter.export(&result, &cancel).await.unwrap_err();
                assert!(matches!(error, ExportError::Cancelled), "{error:?}");
                raised.join().unwrap();
            }
        }
    });
}

#[test]
fn who_stops_reading_a_pipe_ends_the_export() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let fifo = folder.path().join("fifo");
        pipe(&fifo);
        for exporter in exporters(&fifo) {
            let path = fifo.clone();
            let reader = std::thread::spawn(move || {
                let mut some = [0; 1000];
                fs::File::open(path).unwrap().read_exact(&mut some).unwrap();
            });
            let error = exporter.export(&result, &Cancel::new()).await.unwrap_err();
            let ExportError::Io { source, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(error.fault(), Fault::Environment);
            reader.join().unwrap();
        }
    });
}

#[test]
fn what_is_no_file_is_written_to_or_refused() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        for exporter in exporters(Path::new("/dev/null")) {
            exporter.export(&result, &Cancel::new()).await.unwrap();
        }
        let null = fs::metadata("/dev/null").unwrap();
        assert!(null.file_type().is_char_device());
        for exporter in exporters(Path::new("/dev/full")) {
            let error = exporter.export(&result, &Cancel::new()).await.unwrap_err();
            assert!(error.remedy().unwrap().contains("free some space"));
        }
        let out = folder.path().join("out");
        support::write(out.join("directory/kept"), "kept");
        support::write(out.join("file"), "old");
        symlink("file", out.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(out.join("socket")).unwrap();
        let before = tree(&out);
        for name in ["directory", "socket", "file/below", ".."] {
            for exporter in exporters(&out.join(name)) {
                let error = exporter.export(&result, &Cancel::new()).await.unwrap_err();
                assert!(matches!(error, ExportError::Io { .. }), "{name}: {error:?}");
                assert_eq!(tree(&out), before, "{name}");
            }
        }
        // A link stays, and what it leads to is replaced.
        for exporter in exporters(&out.join("link")) {
            exporter.export(&result, &Cancel::new()).await.unwrap();
            let now = tree(&out);
            assert_eq!(now["link"], before["link"]);
            assert_ne!(now["file"], before["file"]);
            assert_eq!(now.len(), before.len());
        }
    });
}

/// A stream that takes so many bytes, and then fails as it is told to.
struct Failing {
    left: usize,
    taken: Arc<Mutex<usize>>,
    on_flush: bool,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let length = self.left.min(bytes.len());
        self.left -= length;
        *self.taken.lock().unwrap() += length;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.on_flush {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

#[test]
fn what_a_stream_says_is_told() {
    runtime().block_on(async {
        let folder = temp();
        let result = result(folder.path()).await;
        let taken = Arc::new(Mutex::new(0));
        for (left, on_flush, kind) in [
            (0, false, io::ErrorKind::ConnectionReset),
            (100_000, false, io::ErrorKind::ConnectionReset),
            (usize::MAX, true, io::ErrorKind::TimedOut),
        ] {
            let open = {
                let taken = taken.clone();
                move || {
                    let taken = taken.clone();
                    let stream = Failing {
                        left,
                        taken,
                        on_flush,
                    };
                    Ok(Box::new(stream) as Box<dyn Write + Send>)
                }
            };
            let plain = Compression::Uncompressed;
            let exporters: [Box<dyn Exporter>; 3] = [
                Box::new(Oci::writer(open.clone()).compression(plain)),
                Box::new(Docker::writer(open.clone()).compression(plain)),
                Box::new(Tar::writer(open.clone())),
            ];
            for exporter in exporters {
                // Nothing is written before everything else is done.
                let prepared = exporter.prepare(&result, &Cancel::new()).await.unwrap();
                assert_eq!(std::mem::take(&mut *taken.lock().unwrap()), 0);
                let error = prepared.finalize(&Cancel::new()).await.unwrap_err();
                let ExportError::Io { source, .. } = &error else {
                    panic!("{error:?}");
                };
                assert_eq!(source.kind(), kind);
                let written = std::mem::take(&mut *taken.lock().unwrap());
                assert!(
                    written == left || on_flush && written > 1_000_000,
                    "{written}"
                );
            }
        }
        // One that cannot be opened.
        let closed = Tar::writer(|| Err(io::ErrorKind::PermissionDenied.into()));
        let error = closed.export(&result, &Cancel::new()).await.unwrap_err();
        assert!(
            matches!(error, ExportError::Io { action: "open", .. }),
            "{error:?}"
        );
    });
}
