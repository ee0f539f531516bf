//! Definitions: bytes from anywhere are decoded, checked, dumped, rewritten, taken back as a state
//! and written.
#![no_main]

use ashlar_llb::{
    BlobDigest, Comparison, Constraints, Definition, Dump, Graph, Platform, Rewrite, State, pb,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(definition) = Definition::decode(data.to_vec()) else {
        return;
    };
    let encoded = definition.encode();
    let again = Definition::decode(encoded.clone()).expect("what was written is read");
    assert_eq!(again.encode(), encoded);
    if let Ok(dump) = Dump::of(&definition) {
        let _ = (
            dump.text().to_string(),
            dump.json().to_string(),
            dump.dot().to_string(),
        );
    }
    let Ok(graph) = Graph::load(&definition) else {
        return;
    };
    for vertex in graph.vertices() {
        let _ = (vertex.name(), vertex.locations().count());
        let op = pb::Op::decode(vertex.raw().clone()).expect("prost reads it too");
        assert_eq!(op.op.as_ref(), Some(vertex.op()));
    }
    let _ = graph.statistics();
    let manifest = BlobDigest::of(b"manifest");
    if let Ok(pinned) = definition.rewrite(|vertex| Rewrite::pin(vertex, manifest)) {
        let compared = Comparison::of(&definition, &pinned).expect("both load");
        let _ = compared.to_string();
    }
    // Definitions embedded in source files may be worse than what they are embedded in.
    let Ok(state) = State::from_definition(&definition) else {
        return;
    };
    let constraints = Constraints::new(Platform::linux_amd64());
    let written = state
        .marshal(&constraints)
        .expect("imported states marshal");
    Graph::load(&written).expect("what was written loads");
});
