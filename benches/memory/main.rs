//! Measures the memory that definitions take, by counting what is allocated.
//!
//! A program of its own, because counting slows every allocation. Nothing is asserted.

#[path = "../measure/graph.rs"]
mod graph;

use std::error::Error;

use ashlar_llb::{Constraints, Definition, Graph, Platform};
use graph::chain_of_steps;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What `make` made, the bytes it holds, and the most there were until it was made.
fn counted<T>(make: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let made = make();
    let held = MEMORY.current_usage() - before;
    (made, held, MEMORY.peak_usage() - before)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut groups = arguments.iter().filter(|name| !name.starts_with("--"));
    if arguments.iter().any(|name| !name.starts_with("--")) && !groups.any(|name| name == "llb") {
        return Ok(());
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let sizes: &[usize] = match quick {
        true => &[100, 1_000],
        false => &[100, 1_000, 10_000, 100_000],
    };
    let constraints = Constraints::new(Platform::linux_amd64());
    println!("| bytes of memory a vertex | held | at most | target |");
    println!("|---|---|---|---|");
    for &vertices in sizes {
        let row = |what: &str, held: usize, most: usize| {
            let (held, most) = (held / vertices, most / vertices);
            println!("| {what}, {vertices} vertices | {held} | {most} | ≤ 2048 |");
        };
        let (states, held, most) = counted(|| chain_of_steps(vertices));
        row("states", held, most);
        let (definition, held, most) = counted(|| states.marshal(&constraints));
        let definition = definition?;
        row("definition, marshalled", held, most);
        let (bytes, held, most) = counted(|| definition.encode());
        row("its bytes", held, most);
        drop((states, definition));
        let given = bytes.clone();
        let (definition, held, most) = counted(|| Definition::decode(given));
        let definition = definition?;
        row("definition, decoded, beside its bytes", held, most);
        let (graph, held, most) = counted(|| Graph::load(&definition));
        row("graph beside its definition", held, most);
        drop(graph?);
    }
    Ok(())
}
