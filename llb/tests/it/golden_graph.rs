//! Definitions BuildKit's client writes load, and keep their bytes.

use ashlar_llb::{Definition, Graph, OpDigest};

use crate::golden;

#[test]
fn golden_definitions_decode_and_load() {
    for case in golden::llb_cases() {
        let name = &case.name;
        let definition = Definition::decode(case.pb.clone()).expect(name);
        assert!(definition.encode() == case.pb, "{name}");
        assert_eq!(definition.is_empty(), case.head.is_none(), "{name}");
        let graph = Graph::load(&definition).unwrap_or_else(|error| panic!("{name}: {error}"));
        let head = graph.head().map(|edge| {
            (
                graph.vertex(edge.vertex).digest().to_string(),
                u64::from(edge.output),
            )
        });
        assert_eq!(head, case.head, "{name}");
        if case.head.is_none() {
            continue;
        }
        assert_eq!(graph.vertices().len() as u64, case.ops - 1, "{name}");
        let digests = graph
            .vertices()
            .iter()
            .map(|vertex| vertex.digest().to_string());
        let mut digests: Vec<_> = digests.collect();
        if let Some((_terminal, expected)) = case.op_digests.split_last() {
            let mut expected = expected.to_vec();
            expected.sort();
            digests.sort();
            assert_eq!(digests, expected, "{name}");
        }
        for (number, vertex) in graph.vertices().iter().enumerate() {
            assert_eq!(OpDigest::of(vertex.raw()), vertex.digest(), "{name}");
            assert_eq!(
                graph.find(&vertex.digest()).map(|found| found.index()),
                Some(number)
            );
            for input in vertex.inputs() {
                assert!(input.vertex.index() < number, "{name}");
                assert!(
                    input.output < graph.vertex(input.vertex).output_count(),
                    "{name}"
                );
            }
            assert!(!vertex.name().is_empty(), "{name}");
        }
    }
}
