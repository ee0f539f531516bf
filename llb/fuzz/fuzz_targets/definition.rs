//! Definitions: bytes from anywhere are decoded, checked, taken back as a state and written.
#![no_main]

use ashlar_llb::{Constraints, Definition, Graph, Platform, State};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(definition) = Definition::decode(data.to_vec()) else {
        return;
    };
    let encoded = definition.encode();
    let again = Definition::decode(encoded.clone()).expect("what was written is read");
    assert_eq!(again.encode(), encoded);
    let Ok(graph) = Graph::load(&definition) else {
        return;
    };
    for vertex in graph.vertices() {
        let _ = (vertex.name(), vertex.locations().count());
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
