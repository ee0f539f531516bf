//! The table on standard output, in Markdown.

use std::time::Duration;

use crate::sample::Times;

/// One row.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    what: &'a str,
    cells: [String; 5],
}

pub(crate) fn head() {
    println!("| what | median | minimum | target | peer | ratio |");
    println!("|---|---|---|---|---|---|");
}

/// Says something that the rows below depend on.
pub(crate) fn note(text: &str) {
    println!("| *{text}* | | | | | |");
}

/// A time to read.
pub(crate) fn time(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        0.0..0.01 => format!("{:.2} µs", milliseconds * 1e3),
        0.01..1.0 => format!("{milliseconds:.3} ms"),
        1.0..100.0 => format!("{milliseconds:.2} ms"),
        100.0..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}

impl<'a> Row<'a> {
    /// A row with a time.
    pub(crate) fn times(what: &'a str, times: &Times) -> Self {
        let mut row = Self::value(what, time(times.median()));
        row.cells[1] = time(times.minimum());
        row
    }

    /// A row with something else.
    pub(crate) fn value(what: &'a str, value: String) -> Self {
        let mut cells: [String; 5] = Default::default();
        cells[0] = value;
        Self { what, cells }
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.cells[2] = format!("≤ {target}");
        self
    }

    /// Compares with what another program needed, beside those that are there.
    pub(crate) fn peer(mut self, name: &str, ours: &Times, theirs: &Times) -> Self {
        let ratio = ours.median().as_secs_f64() / theirs.median().as_secs_f64();
        let texts = [
            format!("{name}: {}", time(theirs.median())),
            format!("{ratio:.2}"),
        ];
        for (cell, text) in self.cells[3..].iter_mut().zip(texts) {
            if !cell.is_empty() {
                *cell += "; ";
            }
            *cell += &text;
        }
        self
    }

    /// A comparison without times.
    pub(crate) fn peer_value(mut self, peer: String) -> Self {
        self.cells[3] = peer;
        self
    }

    pub(crate) fn print(self) {
        println!("| {} | {} |", self.what, self.cells.join(" | "));
    }
}
