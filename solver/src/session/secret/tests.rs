use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::clock::Clock as _;

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn get(provider: &dyn SecretProvider, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
    block(provider.secret(id)).map(|value| value.map(|value| value.expose().to_vec()))
}

#[test]
fn every_provider_has_its_secret_and_no_other() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"from a file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let variable = "CARGO_MANIFEST_DIR";
    let providers: [(&dyn SecretProvider, &[u8]); 4] = [
        (&MemorySecret::new("a", "in memory"), b"in memory"),
        (&FileSecret::new("a", path), b"from a file\n"),
        (
            &EnvSecret::new("a", variable),
            env!("CARGO_MANIFEST_DIR").as_bytes(),
        ),
        (
            &CommandSecret::new("a", "cat", [path, "/dev/stdin"]),
            b"from a file\n",
        ),
    ];
    for (provider, value) in providers {
        assert_eq!(get(provider, "a").unwrap().as_deref(), Some(value));
        assert_eq!(get(provider, "b").unwrap(), None, "{provider:?}");
    }
    for missing in ["ASHLAR_TEST_NOT_SET", "", "A=B", "A\0"] {
        assert_eq!(get(&EnvSecret::new("a", missing), "a").unwrap(), None);
    }
}

#[test]
fn what_is_too_big_or_missing_is_an_error_that_names_the_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(MAX_SECRET as u64).unwrap();
    let whole = get(&FileSecret::new("big", file.path()), "big").unwrap();
    assert_eq!(whole.unwrap().len(), MAX_SECRET);
    file.as_file().set_len(MAX_SECRET as u64 + 1).unwrap();
    let error = get(&FileSecret::new("big", file.path()), "big").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the secret \"big\" is larger than 500 KiB"
    );
    assert_eq!(error.fault(), Fault::Input);
    let endless = CommandSecret::new("big", "cat", ["/dev/zero"]);
    assert!(matches!(
        get(&endless, "big"),
        Err(SecretError::TooBig { .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("no"), folder.path().to_owned()] {
        let error = get(&FileSecret::new("s", &path), "s").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read the secret \"s\" from /"),
            "{error}"
        );
        assert_eq!(error.fault(), Fault::Environment);
    }
}

#[test]
fn a_command_that_fails_says_why() {
    let script = "echo hunter2; echo cannot open the vault >&2; exit 3";
    let error = get(&CommandSecret::new("s", "sh", ["-c", script]), "s").unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"sh\", which has the secret \"s\", failed: exit status: 3: cannot open the vault"
    );
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    let none = [""; 0];
    let error = get(&CommandSecret::new("s", "/no/such/program", none), "s").unwrap_err();
    assert!(matches!(error, SecretError::Command { .. }), "{error}");
    // More than the place for messages holds neither blocks nor harms.
    let noisy = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo value";
    let value = get(&CommandSecret::new("s", "sh", ["-c", noisy]), "s").unwrap();
    assert_eq!(value.as_deref(), Some(&b"value\n"[..]));
}

/// A future that is dropped leaves neither a command nor a thread behind.
#[test]
fn waiting_ends_with_the_future() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from(0o600)).unwrap();
    let pid = folder.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 600 & wait",
        pid.display()
    );
    let providers: [&dyn SecretProvider; 2] = [
        &FileSecret::new("s", &pipe),
        &CommandSecret::new("s", "sh", ["-c", &script]),
    ];
    for provider in providers {
        let clock = crate::clock::SystemClock;
        let began = clock.now();
        block(async {
            tokio::select! {
                _ = provider.secret("s") => panic!("{provider:?} gave something"),
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
            }
        });
        // The runtime waits for its blocking threads.
        let took = clock.now().duration_since(began).unwrap();
        assert!(took < Duration::from_secs(5), "{provider:?} took {took:?}");
    }
    let pid = std::fs::read_to_string(pid).unwrap();
    let process = format!("/proc/{}", pid.trim());
    assert!(!std::path::Path::new(&process).exists());
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from(0o600)).unwrap();
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(120));
            let mut pipe = std::fs::File::options().write(true).open(pipe).unwrap();
            pipe.write_all(b"one ").unwrap();
            std::thread::sleep(Duration::from_millis(120));
            pipe.write_all(b"two").unwrap();
        })
    };
    let value = get(&FileSecret::new("s", &pipe), "s").unwrap();
    assert_eq!(value.as_deref(), Some(&b"one two"[..]));
    writer.join().unwrap();
}
