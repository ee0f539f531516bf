//! Definitions that are rewritten.

use ashlar_llb as llb;
use bytes::Bytes;
use llb::{
    BlobDigest, Constraints, Definition, Graph, OpDigest, Platform, Rewrite, RewriteError, encode,
    pb,
};
use pb::op::Op;
use proptest::prelude::*;

use crate::golden;
use crate::support::{definition_at, op, source};

fn constraints() -> Constraints {
    Constraints::new(Platform::linux_amd64())
}

fn names(definition: &Definition) -> Vec<String> {
    let graph = Graph::load(definition).expect("a valid definition");
    let vertices = graph.vertices().iter();
    vertices.map(|vertex| vertex.name().to_owned()).collect()
}

#[test]
fn keeping_everything_changes_nothing() {
    for case in golden::llb_cases() {
        let definition = Definition::decode(case.pb.clone()).expect(&case.name);
        let kept = definition.rewrite(|_| Rewrite::Keep).expect(&case.name);
        assert_eq!(kept, definition, "{}", case.name);
        // Saying the same anew goes the long way and writes every op again.
        let same = definition
            .rewrite(|vertex| Rewrite::Replace(Box::new(vertex.op().clone())))
            .expect(&case.name);
        assert_eq!(same.encode(), case.pb, "{}", case.name);
    }
}

#[test]
fn pinned_graphs_are_those_that_were_built_pinned() {
    let manifest = BlobDigest::of(b"manifest");
    let file = llb::SourceMap::new("Dockerfile", "", "FROM alpine");
    let range = llb::SourceRange::new((1, 0), (1, 4));
    let build = |reference: String| {
        let base = llb::image(reference.as_str())
            .location(&file, [range])
            .custom_name("base");
        let tools = base.run(["apk", "add", "gcc"]).ignore_cache().root();
        let out = llb::scratch().file(llb::copy(&tools, "/a", "/b"));
        llb::merge([out, tools]).marshal(&constraints()).unwrap()
    };
    let pinned = build("alpine:3".to_owned())
        .rewrite(|vertex| Rewrite::pin(vertex, manifest))
        .unwrap();
    assert_eq!(pinned, build(format!("alpine:3@{manifest}")));
    let again = pinned
        .rewrite(|vertex| Rewrite::pin(vertex, manifest))
        .unwrap();
    assert_eq!(again, pinned, "a pin takes the place of another");
}

#[test]
fn dropped_steps_are_those_that_were_never_there() {
    let build = |lint: bool| {
        let base = llb::image("alpine").run(["a"]).root();
        let base = match lint {
            true => base.run(["lint"]).root(),
            false => base,
        };
        base.run(["b"]).root().marshal(&constraints()).unwrap()
    };
    let drop_lint = |vertex: &llb::Vertex| match vertex.name() {
        "lint" => Rewrite::Drop,
        _ => Rewrite::Keep,
    };
    assert_eq!(build(true).rewrite(drop_lint).unwrap(), build(false));
    // What only the dropped vertex needed goes with it.
    let with_tool = llb::image("alpine")
        .run(["lint"])
        .mount("/tool", llb::image("tool"))
        .root()
        .run(["b"])
        .root()
        .marshal(&constraints())
        .unwrap();
    let without = with_tool.rewrite(drop_lint).unwrap();
    assert_eq!(
        names(&without),
        ["docker-image://docker.io/library/alpine:latest", "b"]
    );
    assert_eq!(without.metadata().len(), without.ops().len());
    assert_eq!(without.source().unwrap().locations.len(), 2);
}

#[test]
fn outputs_of_dropped_vertices_lead_to_what_they_started_from() {
    let (a, b) = (llb::image("a"), llb::image("b"));
    let run = a.run(["x"]).mount("/b", &b);
    let second = run.output("/b").marshal(&constraints()).unwrap();
    let drop_all = |vertex: &llb::Vertex| match vertex.op() {
        Op::Source(_) => Rewrite::Keep,
        _ => Rewrite::Drop,
    };
    let alone = llb::State::from(b.clone()).marshal(&constraints()).unwrap();
    let left = second.rewrite(drop_all).unwrap();
    assert_eq!(left.ops(), alone.ops(), "output 1 became output 0");
    for state in [
        llb::merge([llb::State::from(a.clone()), llb::State::from(b.clone())]).into(),
        llb::diff(&b, &a).into(),
        a.file(llb::mkdir("/1").mkdir("/2")),
    ] {
        let state: llb::State = state;
        let definition = state.marshal(&constraints()).unwrap();
        assert_eq!(
            names(&definition.rewrite(drop_all).unwrap()),
            ["docker-image://docker.io/library/a:latest"],
            "{:?}",
            names(&definition)
        );
    }
    let nothing = llb::scratch().file(llb::mkdir("/a"));
    let nothing = nothing.marshal(&constraints()).unwrap();
    assert!(matches!(
        nothing.rewrite(drop_all),
        Err(RewriteError::NothingBelow { output: 0, .. })
    ));
    let pinned = nothing.rewrite(|_| Rewrite::Identifier("x".into()));
    assert!(matches!(pinned, Err(RewriteError::NotASource { .. })));
}

/// Field 127, which no message has, with a number.
const UNKNOWN: [u8; 3] = [0xf8, 0x07, 42];

/// A chain of ops that all have fields that are not known, in the op, in what it does and in
/// the inputs.
fn foreign() -> Definition {
    let nested = |mut body: Vec<u8>, field: u8| {
        body.extend(UNKNOWN);
        let mut out = vec![
            field << 3 | 2,
            u8::try_from(body.len()).expect("a short body"),
        ];
        out.extend(body);
        out
    };
    let mut identifier = vec![0x0a, 4];
    identifier.extend(b"a://");
    let mut first = nested(identifier, 3);
    first.extend(UNKNOWN);
    let mut input = vec![0x0a, 71];
    input.extend(OpDigest::of(&first).to_string().into_bytes());
    let mut second = nested(input, 1);
    let mut merge = vec![0x0a, 0];
    merge.extend(UNKNOWN);
    second.extend(nested(merge, 6));
    second.extend(UNKNOWN);
    definition_at(vec![first, second], 0)
}

fn unknown_count(bytes: &Bytes) -> usize {
    bytes.windows(3).filter(|window| *window == UNKNOWN).count()
}

#[test]
fn fields_that_are_not_known_stay() {
    let definition = foreign();
    assert_eq!(definition.rewrite(|_| Rewrite::Keep).unwrap(), definition);
    let pinned = definition
        .rewrite(|vertex| match vertex.op() {
            Op::Source(_) => Rewrite::Identifier("b://longer".into()),
            _ => Rewrite::Keep,
        })
        .unwrap();
    assert_eq!(
        unknown_count(&pinned.ops()[0]),
        2,
        "in the source and its op"
    );
    assert_eq!(unknown_count(&pinned.ops()[1]), 4, "only an input changed");
    assert_eq!(names(&pinned), ["b://longer", "merge (b://longer)"]);
    // An op that does something else keeps what is around that.
    let replaced = definition
        .rewrite(|vertex| match vertex.op() {
            Op::Source(source) => Rewrite::Replace(Box::new(Op::Source(source.clone()))),
            _ => Rewrite::Keep,
        })
        .unwrap();
    assert_eq!(unknown_count(&replaced.ops()[0]), 1);
}

/// What is said of the ops of [`foreign`], and of the places they come from, has fields that are
/// not known either.
fn foreign_with_more() -> Definition {
    let delimited = |field: u8, content: &[u8]| {
        let mut out = vec![field << 3 | 2];
        prost::encode_length_delimiter(content.len(), &mut out).expect("a vector grows");
        out.extend(content);
        out
    };
    let entry = |op: &Bytes, mut value: Vec<u8>| {
        value.extend(UNKNOWN);
        let key = delimited(1, OpDigest::of(op).to_string().as_bytes());
        [key, delimited(2, &value)].concat()
    };
    let definition = foreign();
    let mut bytes = definition.encode();
    let mut source = Vec::new();
    for op in definition.ops() {
        bytes.extend(delimited(2, &entry(op, vec![0x08, 1])));
        source.extend(delimited(1, &entry(op, vec![])));
    }
    source.extend(delimited(
        2,
        &[&delimited(1, b"file")[..], &UNKNOWN].concat(),
    ));
    source.extend(UNKNOWN);
    bytes.extend(delimited(3, &source));
    Definition::decode(bytes).expect("it decodes")
}

#[test]
fn what_is_said_in_fields_that_are_not_known_stays() {
    let definition = foreign_with_more();
    let of_source = |definition: &Definition| {
        unknown_count(definition.source().expect("there are source maps").raw())
    };
    assert_eq!(of_source(&definition), 5);
    let pinned = definition
        .rewrite(|vertex| match vertex.op() {
            Op::Source(_) => Rewrite::Identifier("b://longer".into()),
            _ => Rewrite::Keep,
        })
        .unwrap();
    assert_eq!(of_source(&pinned), 5);
    assert_eq!(pinned.metadata().len(), 3);
    for (digest, said) in pinned.metadata().iter() {
        assert_eq!(unknown_count(said.raw()), 1, "{digest}");
        let locations = &pinned.source().unwrap().locations;
        assert!(locations.contains_key(&digest.to_string()));
    }
    // A state keeps what is said of its ops.
    let state = llb::State::from_definition(&definition).unwrap();
    let again = state.marshal(&constraints()).unwrap();
    assert_eq!(again.ops(), definition.ops());
    for op in &again.ops()[..2] {
        let digest = OpDigest::of(op);
        let (before, after) = (definition.metadata(), again.metadata());
        assert_eq!(before.get(&digest), after.get(&digest));
    }
}

#[test]
fn what_becomes_equal_becomes_one() {
    let (a, b) = (source("a://"), source("b://"));
    let inputs = [0, 1].map(|input| pb::MergeInput { input }).into();
    let merge = op(&[&a, &b], Op::Merge(pb::MergeOp { inputs }));
    let unused = source("unused://");
    let definition = definition_at(vec![unused, a, b, merge], 0);
    let joined = definition
        .rewrite(|vertex| match vertex.name() {
            "b://" => Rewrite::Identifier("a://".into()),
            _ => Rewrite::Keep,
        })
        .unwrap();
    assert_eq!(
        joined.ops().len(),
        3,
        "one source, the merge, the terminal op"
    );
    assert_eq!(names(&joined), ["a://", "merge (a://, a://)"]);
}

#[test]
fn an_outcome_that_is_no_graph_is_refused() {
    let definition = definition_at(vec![source("a://")], 0);
    let broken = definition.rewrite(|_| {
        let inputs = vec![pb::MergeInput { input: 0 }];
        Rewrite::Replace(Box::new(Op::Merge(pb::MergeOp { inputs })))
    });
    assert!(
        matches!(broken, Err(RewriteError::Outcome { .. })),
        "{broken:?}"
    );
    let not_loading = Definition::new(vec![Bytes::from_static(b"x")], [].into(), None);
    let refused = not_loading.rewrite(|_| Rewrite::Keep);
    assert!(matches!(refused, Err(RewriteError::Load { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Whatever is decided for whichever vertices, the outcome loads or the reason is typed.
    #[test]
    fn rewritten_graphs_load(case in 0_usize..1000, choices in any::<u64>()) {
        thread_local! {
            static CASES: Vec<golden::Case> = golden::llb_cases();
        }
        CASES.with(|cases| {
            let case = &cases[case % cases.len()];
            let definition = Definition::decode(case.pb.clone()).unwrap();
            let mut at = 0;
            let outcome = definition.rewrite(|vertex| {
                at += 1;
                let choice = choices >> (at * 2 % 64) & 3;
                match (choice, vertex.op()) {
                    (0, Op::Exec(_) | Op::File(_)) => Rewrite::Drop,
                    (1, Op::Source(_)) => Rewrite::Identifier("changed://".into()),
                    (2, op) => Rewrite::Replace(Box::new(op.clone())),
                    _ => Rewrite::Keep,
                }
            });
            match outcome {
                Ok(outcome) => {
                    let again = Definition::decode(outcome.encode()).unwrap();
                    assert_eq!(again, outcome);
                    Graph::load(&again).unwrap();
                    for raw in again.ops() {
                        let op = <pb::Op as prost::Message>::decode(raw.clone()).unwrap();
                        assert_eq!(encode::op_bytes(&op), *raw, "canonical stays canonical");
                    }
                }
                Err(RewriteError::NothingBelow { .. }) => {}
                Err(error) => panic!("{}: {error:?}", case.name),
            }
        });
    }
}
