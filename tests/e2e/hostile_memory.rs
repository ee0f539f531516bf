//! Memory that definitions take which were made to take much, measured as the system sees it.
//!
//! They have 8 MiB, and with `ASHLAR_SOAK=1` 64 MiB, the default limit of a definition; a million ops
//! have what they need.

use std::fs;
use std::process::Command;

use ashlar_llb::{Definition, encode, pb};
use ashlar_solver::solver::SolveRequest;
use pb::op::Op;

use super::support::{self, temp};

/// Bytes that a process may take for each byte of a definition, from reading it to the end of its
/// solve.
const MOST: u64 = 10;

/// Bytes that it may take beside: threads, and what an allocator keeps.
const BESIDE: u64 = 16 << 20;

const KINDS: [&str; 14] = [
    "a million ops",
    "different ops",
    "metadata",
    "empty ops",
    "empty sources",
    "inputs",
    "source files",
    "actions",
    "one large file",
    "patterns",
    "short patterns",
    "arguments",
    "environment",
    "attributes",
];

fn size(kind: &str) -> usize {
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    match (soak, kind) {
        (false, "a million ops") => 34 << 20,
        (false, _) => 8 << 20,
        (true, _) => 64 << 20,
    }
}

/// A field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut rest = content.len();
    while rest > 0x7f {
        bytes.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes.extend(content);
    bytes
}

fn op(does: Op) -> Vec<u8> {
    encode::op_bytes(&pb::Op {
        op: Some(does),
        ..pb::Op::default()
    })
}

fn source(identifier: &str) -> Vec<u8> {
    op(Op::Source(pb::SourceOp {
        identifier: identifier.to_owned(),
        ..pb::SourceOp::default()
    }))
}

/// A definition that copies a file, with more fields of the copy.
fn copying(more: &[u8]) -> Vec<u8> {
    let minus_one = |number: u8| [&[number << 3][..], &[0xff; 9], &[1]].concat();
    let file = [field(1, b"/a"), field(3, b"a")].concat();
    let file = [minus_one(1), minus_one(2), field(5, &file)].concat();
    let file = field(4, &field(2, &file));
    let input = field(1, ashlar_llb::OpDigest::of(&file).to_string().as_bytes());
    let copy = [&field(1, b"/"), &field(2, b"/"), more].concat();
    let action = [minus_one(1), field(4, &copy)].concat();
    let copy = [field(1, &input), field(4, &field(2, &action))].concat();
    ending(field(1, &file), &copy)
}

/// An exec op on scratch, with more fields of what it runs.
fn running(more: &[u8]) -> Vec<u8> {
    let meta = [&field(1, b"true"), &field(3, b"/"), more].concat();
    let minus_one = [&[1 << 3][..], &[0xff; 9], &[1]].concat();
    let mount = [minus_one, field(3, b"/")].concat();
    field(2, &[field(1, &meta), field(2, &mount)].concat())
}

/// A definition whose result is that of its last op.
fn ending(mut bytes: Vec<u8>, last: &[u8]) -> Vec<u8> {
    bytes.extend(field(1, last));
    let input = pb::Input {
        digest: ashlar_llb::OpDigest::of(last).to_string(),
        index: 0,
    };
    let end = encode::op_bytes(&pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    });
    bytes.extend(field(1, &end));
    bytes
}

/// The bytes of a definition of this kind, `room` at most.
fn definition(kind: &str, room: usize) -> Vec<u8> {
    let last = source("local://absent");
    let fill = |unit: &[u8]| unit.repeat((room - 1024) / unit.len());
    match kind {
        "a million ops" => {
            let unit = field(1, &last);
            ending(
                unit.repeat(((room - 1024) / unit.len()).min(999_998)),
                &last,
            )
        }
        "different ops" => {
            let mut bytes = Vec::with_capacity(room);
            for number in 0..(room - 1024) / 40 {
                bytes.extend(field(1, &source(&format!("local://{number}"))));
            }
            ending(bytes, &last)
        }
        "metadata" => {
            let mut bytes = Vec::with_capacity(room);
            for number in 0..(room - 1024) / 160 {
                let digest = ashlar_llb::OpDigest::of(&usize::to_le_bytes(number));
                let key = field(1, digest.to_string().as_bytes());
                let caps = field(5, &field(1, b"c")).repeat(12);
                bytes.extend(field(2, &[key, field(2, &caps)].concat()));
            }
            ending(bytes, &last)
        }
        "empty ops" => fill(&[0x0a, 0]),
        "empty sources" => ending(fill(&[0x1a, 0]), &last),
        "inputs" => ending(field(1, &fill(&[0x0a, 0])), &last),
        "source files" => ending(field(3, &fill(&[0x0a, 0])), &last),
        "actions" => ending(Vec::new(), &field(4, &fill(&[0x12, 0]))),
        "patterns" => copying(&fill(&field(12, b"patterns/of/copy"))),
        "short patterns" => copying(&fill(&field(12, b"a"))),
        "arguments" => ending(Vec::new(), &running(&fill(&field(1, b"arguments a")))),
        "environment" => ending(Vec::new(), &running(&fill(&field(2, b"a=abcdefgh")))),
        "attributes" => {
            let mut source = field(1, b"local://absent");
            for number in 0..(room - 1024) / 16 {
                let key = field(1, format!("{number:08}").as_bytes());
                source.extend(field(2, &[key, field(2, b"")].concat()));
            }
            ending(Vec::new(), &field(3, &source))
        }
        "one large file" => {
            let file = pb::FileActionMkFile {
                path: "/large".to_owned(),
                mode: 0o644,
                data: vec![b'x'; room - 1024].into(),
                timestamp: -1,
                ..pb::FileActionMkFile::default()
            };
            let action = pb::FileAction {
                input: -1,
                secondary_input: -1,
                output: 0,
                action: Some(pb::file_action::Action::Mkfile(file)),
            };
            let last = op(Op::File(pb::FileOp {
                actions: vec![action],
            }));
            ending(Vec::new(), &last)
        }
        _ => panic!("{kind}"),
    }
}

/// A number of this process's memory, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.unwrap().trim_start_matches(':').trim();
    let number = kibibytes.trim_end_matches(" kB").parse::<u64>().unwrap();
    number << 10
}

/// Reads and solves a definition, and says what it took.
pub fn role(arguments: &[&str]) {
    let [kind] = arguments else {
        panic!("{arguments:?}");
    };
    let folder = temp();
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let bytes = definition(kind, size(kind));
        let input = bytes.len() as u64;
        assert!(input <= size(kind) as u64, "{kind}: {input}");
        // From now on the peak is that of what follows.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS");
        let outcome = match Definition::decode(bytes) {
            Ok(definition) => {
                let solved = solver.solve(SolveRequest::new(definition)).result().await;
                solved.map(drop).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        let took = memory("VmHWM").saturating_sub(before);
        println!("took {took} of {input}: {outcome:?}");
        assert_eq!(outcome.is_ok(), *kind == "one large file", "{outcome:?}");
    });
}

#[test]
fn class_4_the_memory_of_definitions_is_a_multiple_of_their_size() {
    let mut wrong = Vec::new();
    for kind in KINDS {
        let child: &mut Command = &mut support::child("hostile-memory", &[kind]);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{kind}: {text}");
        let told = text.lines().find_map(|line| line.split_once("took "));
        let (_, told) = told.unwrap_or_else(|| panic!("{kind}: {text}"));
        let (took, rest) = told.split_once(" of ").unwrap();
        let (input, outcome) = rest.split_once(": ").unwrap();
        let (took, input): (u64, u64) = (took.parse().unwrap(), input.parse().unwrap());
        let line = format!(
            "{kind}: {} MiB for {} MiB: {outcome:.100}",
            took >> 20,
            input >> 20
        );
        println!("{line}");
        if took > MOST * input + BESIDE {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
