//! Writing and reading definitions, next to hashing the same ops.

use std::hint::black_box;
use std::time::Instant;

use ashlar_llb::{Constraints, Definition, Graph, Platform};
use sha2::{Digest as _, Sha256};

use crate::graph::chain_of_steps;
use crate::sample::Times;
use crate::table::{Row, time};
use crate::{Outcome, Size};

/// The number of vertices that the targets are for.
const TARGET_VERTICES: u32 = 10_000;

pub(crate) fn measure(size: Size) -> Outcome {
    let sizes: &[(u32, usize)] = match size.quick {
        true => &[(100, 10), (1_000, 3)],
        false => &[(100, 500), (1_000, 100), (10_000, 20), (100_000, 5)],
    };
    for &(vertices, rounds) in sizes {
        measure_size(vertices, rounds)?;
    }
    Ok(())
}

fn measure_size(vertices: u32, rounds: usize) -> Outcome {
    let constraints = Constraints::new(Platform::linux_amd64());
    let count = usize::try_from(vertices)?;
    let bytes = chain_of_steps(count).marshal(&constraints)?.encode();
    let hashed = Definition::decode(bytes.clone())?;
    let [mut hash, mut write, mut encode, mut read] = [(); 4].map(|()| Times::default());
    for _ in 0..rounds {
        let start = Instant::now();
        for op in hashed.ops() {
            black_box(Sha256::digest(op));
        }
        hash.add(start.elapsed());

        let start = Instant::now();
        let definition = chain_of_steps(count).marshal(&constraints)?;
        write.add(start.elapsed());
        let start = Instant::now();
        assert_eq!(
            definition.encode(),
            bytes,
            "the same graph gives the same bytes"
        );
        encode.add(start.elapsed());

        let given = bytes.clone();
        let start = Instant::now();
        let graph = Graph::load(&Definition::decode(given)?)?;
        read.add(start.elapsed());
        assert_eq!(graph.vertices().len(), count + 2);
    }
    let rows = [
        ("build and marshal", &write, "25 ms"),
        ("serialise the definition", &encode, ""),
        ("decode and check", &read, "20 ms"),
    ];
    for (what, times, target) in rows {
        let each = time(times.per(vertices).median());
        let what = format!("{what}, {vertices} vertices ({each} each)");
        let row = Row::times(&what, times).peer("SHA-256 of the ops", times, &hash);
        match target {
            target if vertices == TARGET_VERTICES && !target.is_empty() => row.target(target),
            _ => row,
        }
        .print();
    }
    Ok(())
}
