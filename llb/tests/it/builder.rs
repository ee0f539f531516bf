//! What holds for every graph the builder can make.

use std::collections::BTreeSet;

use ashlar_llb::{
    self as llb, Cache, Constraints, Definition, Graph, Mount, Platform, State, Tmpfs,
};
use proptest::prelude::*;

/// One step of a random program on a pool of states; numbers pick states by remainder.
#[derive(Clone, Debug)]
enum Step {
    Image(u8),
    Local(u8),
    Run { on: usize, mount: usize, kind: u8 },
    File { on: usize, from: usize, actions: u8 },
    Merge(Vec<usize>),
    Diff(usize, usize),
    Requires(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Image),
        any::<u8>().prop_map(Step::Local),
        any::<(usize, usize, u8)>().prop_map(|(on, mount, kind)| Step::Run { on, mount, kind }),
        any::<(usize, usize, u8)>().prop_map(|(on, from, actions)| Step::File {
            on,
            from,
            actions
        }),
        prop::collection::vec(any::<usize>(), 0..4).prop_map(Step::Merge),
        any::<(usize, usize)>().prop_map(|(lower, upper)| Step::Diff(lower, upper)),
        any::<(usize, usize)>().prop_map(|(on, other)| Step::Requires(on, other)),
    ]
}

fn apply(step: &Step, states: &[State]) -> State {
    let at = |index: &usize| &states[index % states.len()];
    match step {
        Step::Image(number) => llb::image(format!("image{}", number % 4)).into(),
        Step::Local(number) => llb::local(format!("dir{}", number % 4)).into(),
        Step::Run { on, mount, kind } => {
            let run = at(on)
                .env("K", kind.to_string())
                .run(["x"])
                .custom_name("x");
            match kind % 5 {
                0 => run.mount("/m", at(mount)).output("/m"),
                1 => run.mount("/m", Mount::bind(at(mount)).readonly()).root(),
                2 => run
                    .mount("/m", Cache::shared("c"))
                    .mount("/a", at(mount))
                    .root(),
                3 => run
                    .mount("/m", Tmpfs::new())
                    .mount("/z", at(mount))
                    .output("/z"),
                _ => run.readonly_root().mount("/m", at(mount)).output("/m"),
            }
        }
        Step::File { on, from, actions } => {
            let mut chain = llb::FileActions::from(llb::copy(at(from), "/", "/d"));
            for number in 0..actions % 4 {
                let tree = chain.clone().on(at(from));
                chain = chain
                    .mkdir(format!("/{number}"))
                    .copy(&tree, "/", "/t")
                    .into();
            }
            at(on).file(chain)
        }
        Step::Merge(inputs) => llb::merge(inputs.iter().map(at)).into(),
        Step::Diff(lower, upper) => llb::diff(at(lower), at(upper)).into(),
        Step::Requires(on, other) => {
            // A passthrough of nothing but scratch is refused.
            let on = if at(on).is_scratch() {
                &states[1]
            } else {
                at(on)
            };
            on.requires("gate", [at(other)])
        }
    }
}

/// Does the steps and marshals the last state, with everything that was made before at hand.
fn definition(steps: &[Step]) -> Definition {
    let mut states = vec![llb::scratch(), llb::image("base").into()];
    for step in steps {
        states.push(apply(step, &states));
    }
    let constraints = Constraints::new(Platform::linux_amd64()).local_unique_id("unique");
    let last = states.last().expect("states");
    last.marshal(&constraints).expect("marshals")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_graph_loads_and_comes_back(steps in prop::collection::vec(step(), 0..30)) {
        let made = definition(&steps);
        prop_assert_eq!(&made, &definition(&steps));
        let graph = Graph::load(&made).expect("loads");
        // Every op but the terminal one is needed by the head.
        prop_assert_eq!(graph.vertices().len(), made.ops().len().saturating_sub(1));
        let decoded = Definition::decode(made.encode()).expect("decodes");
        prop_assert_eq!(&decoded, &made);

        if graph.head().is_none() {
            return Ok(());
        }
        let constraints = Constraints::new(Platform::linux_arm64()).ignore_cache();
        let state = State::from_definition(&made).expect("loads");
        let again = state.marshal(&constraints).expect("marshals");
        // Only the order may differ: an imported op does not know its actions.
        let ops = |definition: &Definition| -> BTreeSet<Vec<u8>> {
            definition.ops().iter().map(|op| op.to_vec()).collect()
        };
        prop_assert_eq!(ops(&again), ops(&made));
        prop_assert_eq!(again.metadata(), made.metadata());
        prop_assert_eq!(again.ops().len(), made.ops().len());
    }
}
