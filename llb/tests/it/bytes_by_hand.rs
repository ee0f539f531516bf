//! Ops in bytes that were written by hand from the field numbers of the protocol, so that builder
//! and encoder are not measured by themselves. A length stands before what it counts, fields are sorted by number,
//! and those of a oneof come last, as Go's protobuf library has it.

use ashlar_llb as llb;
use llb::{Cache, Constraints, Definition, OpDigest, Platform, State};

/// -1 as a varint.
const MINUS_ONE: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
/// Op.platform (10): architecture (1), os (2).
const PLATFORM: &[u8] = b"\x52\x0e\x0a\x05amd64\x12\x05linux";
/// Op.constraints (11), which are always there, here without filters.
const CONSTRAINTS: &[u8] = b"\x5a\0";

fn marshal(state: &State) -> Definition {
    let constraints = Constraints::new(Platform::linux_amd64());
    state.marshal(&constraints).expect("marshals")
}

/// The first op of the state's definition.
fn op(state: &State) -> Vec<u8> {
    marshal(state).ops()[0].to_vec()
}

/// What writes `hi` to `/f`.
fn mkfile() -> Vec<u8> {
    [
        CONSTRAINTS,
        b"\x22\x30", // Op.file (4)
        b"\x12\x2e", // FileOp.actions (2)
        b"\x08",     // FileAction.input (1)
        MINUS_ONE,
        b"\x10", // secondaryInput (2)
        MINUS_ONE,
        b"\x2a\x16",     // mkfile (5); output 0 is not written
        b"\x0a\x02/f",   // path (1)
        b"\x10\xa4\x03", // mode (2): 0644 is 420
        b"\x1a\x02hi",   // data (3)
        b"\x28",         // timestamp (5)
        MINUS_ONE,
    ]
    .concat()
}

#[test]
fn an_exec() {
    let state = llb::scratch()
        .run(["sh", "-c"])
        .env("A", "1")
        .mount("/c", Cache::locked("id"))
        .root();
    let expected = [
        PLATFORM,
        CONSTRAINTS,
        b"\x12\x4b",             // Op.exec (2)
        b"\x0a\x12",             // ExecOp.meta (1)
        b"\x0a\x02sh\x0a\x02-c", // Meta.args (1)
        b"\x12\x03A=1",          // env (2)
        b"\x1a\x01/",            // cwd (3)
        b"\x58\x01",             // removeMountStubsRecursive (11)
        b"\x12\x0e\x08",         // ExecOp.mounts (2): Mount.input (1)
        MINUS_ONE,
        b"\x1a\x01/",    // dest (3); output 0 is not written
        b"\x12\x25\x08", // ExecOp.mounts (2): Mount.input (1)
        MINUS_ONE,
        b"\x1a\x02/c", // dest (3)
        b"\x20",       // output (4)
        MINUS_ONE,
        b"\x30\x03",                       // mountType (6): CACHE
        b"\xa2\x01\x06\x0a\x02id\x10\x02", // cacheOpt (20): ID (1), sharing (2): LOCKED
    ]
    .concat();
    assert_eq!(op(&state), expected);
}

#[test]
fn a_file_op() {
    let state = llb::scratch().file(llb::mkfile("/f", "hi"));
    assert_eq!(op(&state), mkfile());
}

#[test]
fn a_source_with_attributes() {
    let state = llb::http("https://e/f").mode(0o600).filename("n").into();
    let expected = [
        CONSTRAINTS,
        b"\x1a\x34",            // Op.source (3)
        b"\x0a\x0bhttps://e/f", // SourceOp.identifier (1)
        // attrs (2), sorted: key (1), value (2)
        b"\x12\x12\x0a\x0dhttp.filename\x12\x01n",
        b"\x12\x11\x0a\x09http.perm\x12\x040600",
    ]
    .concat();
    assert_eq!(op(&state), expected);
}

#[test]
fn a_definition_with_metadata() {
    let file = llb::mkfile("/f", "hi").custom_name("n");
    let definition = marshal(&llb::scratch().file(file));
    let first = mkfile();
    let digest = OpDigest::of(&first).to_string();
    // The terminal op: Op.inputs (1): Input.digest (1); index 0 is not written.
    let last = [b"\x0a\x49\x0a\x47".as_slice(), digest.as_bytes()].concat();
    let last_digest = OpDigest::of(&last).to_string();
    // Definition.metadata (2): key (1), value (2).
    let named = [
        b"\x12\x6f\x0a\x47".as_slice(),
        digest.as_bytes(),
        b"\x12\x24",
        b"\x12\x13\x0a\x0ellb.customname\x12\x01n", // OpMetadata.description (2)
        b"\x2a\x0d\x0a\x09file.base\x10\x01",       // caps (5)
    ]
    .concat();
    let terminal = [
        b"\x12\x80\x01\x0a\x47".as_slice(),
        last_digest.as_bytes(),
        b"\x12\x35",
        b"\x2a\x0f\x0a\x0bconstraints\x10\x01",
        b"\x2a\x14\x0a\x10meta.description\x10\x01", // since an op has a description
        b"\x2a\x0c\x0a\x08platform\x10\x01",
    ]
    .concat();
    let mut entries = [(&digest, named), (&last_digest, terminal)];
    entries.sort();
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("below 128");
    let expected = [
        &[0x0a, length(&first)], // Definition.def (1)
        first.as_slice(),
        &[0x0a, length(&last)],
        &last,
        &entries[0].1,
        &entries[1].1,
        // Source (3): locations (1), of each op even if it has none: key (1), value (2)
        b"\x1a\x4d\x0a\x4b\x0a\x47",
        digest.as_bytes(),
        b"\x12\0",
    ]
    .concat();
    assert_eq!(definition.encode(), expected);
}
