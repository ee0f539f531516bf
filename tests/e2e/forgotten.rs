//! What was secret is not in the memory of this process either, once nobody holds it.
//!
//! A process lends secrets of every kind to steps and drops all it has of them. Then it searches its
//! own memory. It knows the values only disguised, so that it does not find its own copy; while it
//! holds one, the search finds it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ashlar_llb::{Secret, State};
use ashlar_solver::executor::{ExecutorChoice, Runtime};
use ashlar_solver::session::{CommandSecret, FileSecret, MemorySecret, SecretValue};
use ashlar_solver::solver::{SolveRequest, Solver};

use super::support::{self, Need, run, skipped, temp, tool};

/// What the bytes of a value are disguised with.
const MASK: u8 = 0x5a;

/// Bytes of memory that are looked at together; values are much shorter.
const CHUNK: usize = 1 << 20;

fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ MASK).collect()
}

/// Where in this process's memory the values are, of which the disguised form is given.
fn found(values: &[Vec<u8>]) -> Vec<String> {
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut places = Vec::new();
    let mut buffer = vec![0; CHUNK];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (number(start), number(end));
        while at < end {
            let length = CHUNK.min(usize::try_from(end - at).unwrap());
            // Some of it cannot be read: guards, devices.
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..length], at) else {
                break;
            };
            for (number, value) in values.iter().enumerate() {
                for place in memchr::memchr_iter(value[0] ^ MASK, &buffer[..read]) {
                    // Never put together anywhere: that would be one more copy.
                    let mut pairs = value.iter().zip(&buffer[place..read]);
                    let length = pairs.len();
                    if length == value.len() && pairs.all(|(one, other)| one ^ MASK == *other) {
                        // What stands before it tells whose it is.
                        let before = buffer[place.saturating_sub(24)..place].escape_ascii();
                        places.push(format!("value {number} in {line}, after {before}"));
                    }
                }
            }
            // What lies across an edge is seen by the next look.
            let step = if read == CHUNK { CHUNK - 256 } else { read };
            at += u64::try_from(step).unwrap();
        }
    }
    buffer.fill(0);
    places
}

fn step(script: &str) -> State {
    let mut run = support::busybox_state().run(["sh", "-c", script]);
    for id in ["memory", "file", "command"] {
        run = run
            .secret(Secret::file(format!("/run/secrets/{id}")).id(id))
            .secret(Secret::env(id, format!("S_{id}")));
    }
    run.root()
}

/// Arguments: a folder, then disguised values as hex.
pub fn role(arguments: &[&str]) {
    let folder = Path::new(arguments[0]);
    let values: Vec<Vec<u8>> = arguments[1..].iter().map(|text| bytes(text)).collect();
    let held = SecretValue::new(masked(&values[0]));
    assert!(!found(&values).is_empty(), "the search finds nothing");
    drop(held);
    assert_eq!(
        found(&values),
        [""; 0],
        "dropping a value does not clear it"
    );

    let executors = [
        ExecutorChoice::Sandbox,
        Runtime::runc(tool("runc").unwrap()).into(),
    ];
    for (number, executor) in executors.into_iter().enumerate() {
        let runtime = support::runtime();
        runtime.block_on(async {
            let solver = Solver::builder()
                .root(folder.join(format!("state{number}")))
                .executor(executor)
                .build()
                .unwrap();
            let request = |state: &State| -> SolveRequest {
                support::request(state)
                    .local("base", folder.join("base"))
                    .secret(MemorySecret::new("memory", masked(&values[0])))
                    .secret(FileSecret::new("file", folder.join("file")))
                    .secret(CommandSecret::new(
                        "command",
                        "cat",
                        [folder.join("command")],
                    ))
            };
            let script = "cat /run/secrets/* | wc -c; test $S_memory$S_file$S_command";
            support::solve(&solver, request(&step(script))).await;
            let failing = request(&step("exit 3"));
            let error = solver.solve(failing).result().await.unwrap_err();
            // It holds on to what was lent, for a look into the step.
            assert!(!found(&values).is_empty());
            drop(error);
            let cancelled = solver.solve(request(&step("sleep 60")));
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            drop(cancelled);
        });
        drop(runtime);
        assert_eq!(found(&values), [""; 0], "executor {number}");
    }
    println!("\n@ forgotten");
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn class_18_no_secret_stays_in_memory() {
    let needs = [Need::Root, Need::Tool("busybox"), Need::Tool("runc")];
    if skipped("forgotten::class_18_no_secret_stays_in_memory", &needs) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    let mut arguments = vec![folder.path().to_str().unwrap().to_owned()];
    for name in ["memory", "file", "command"] {
        let random = fs::read("/proc/sys/kernel/random/uuid").unwrap();
        let value = [name.as_bytes(), b"-", random.trim_ascii()].concat();
        fs::write(folder.path().join(name), &value).unwrap();
        let hex = masked(&value).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        arguments.push(hex);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = run(&mut support::child("forgotten", &arguments));
    assert!(told.contains("@ forgotten"), "{told}");
}
