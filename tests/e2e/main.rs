//! Whole builds through the public API, checked with the tools of others.
//!
//! Owns the proof that the parts work together; what one part does is tested beside it. A test
//! that needs root or a tool that is missing says so in a line `SKIPPED: <test>: <reason>`.

#![expect(
    clippy::disallowed_methods,
    reason = "tests read the environment and run programs"
)]

mod agents;
mod archives;
mod attest;
mod cache;
mod cache_mounts;
mod changed_input;
mod compile;
mod compression;
mod concurrent;
mod contexts;
mod devices;
mod engines;
mod export;
mod export_durable;
mod export_filesystems;
mod export_full;
mod export_killed;
mod export_names;
mod export_options;
mod export_refused;
mod export_rules;
mod export_streams;
mod export_together;
mod export_tools;
mod export_traces;
mod export_unchanged;
mod export_verified;
mod failed_step;
mod forgotten;
mod gate;
mod golden;
mod golden_cache;
mod golden_export;
mod golden_provenance;
mod golden_sbom;
mod guest;
mod hostile;
mod hostile_memory;
mod images;
mod kill_nine;
mod leaks;
mod limits;
mod nested;
mod network;
mod nginx;
mod oci_rules;
mod overlay_root;
mod push;
mod push_indexes;
mod push_proxied;
mod push_restarted;
mod push_tokens;
mod registries;
mod registry;
mod runtimes;
mod same_image;
mod sandbox_network;
mod sbom;
mod secrets;
mod shared_layers;
mod sight;
mod stopping;
mod support;
mod token_server;
mod two_roots;
mod unprivileged;
mod untouched;

/// What tests run as a process of its own: this binary again, told what to do by its environment.
#[test]
#[ignore = "started by other tests, with a role to play"]
fn child() {
    let role = std::env::var(support::ROLE).expect("only other tests start this one");
    let arguments = std::env::var(support::ARGUMENTS).unwrap_or_default();
    let arguments: Vec<&str> = arguments.split('\n').collect();
    match role.as_str() {
        "agents" => agents::role(&arguments),
        "build" => concurrent::role(&arguments),
        "churn" => kill_nine::role(&arguments),
        "exporting" => export_killed::role(&arguments),
        "failed-step" => failed_step::role(&arguments),
        "file-systems" => export_filesystems::role(&arguments),
        "forgotten" => forgotten::role(&arguments),
        "guest" => guest::role(&arguments),
        "hostile-memory" => hostile_memory::role(&arguments),
        "leaks" => leaks::role(&arguments),
        "loading" => export_tools::role(&arguments),
        "refused" => export_refused::role(&arguments),
        "runtimes" => runtimes::role(&arguments),
        "same-image" => same_image::role(&arguments),
        "sixty-layers" => compression::role(&arguments),
        "push" => push::role(&arguments),
        "secrets" => secrets::role(&arguments),
        "sight" => sight::role(&arguments),
        "wired" => sandbox_network::role(&arguments),
        "wired-killed" => sandbox_network::killed(&arguments),
        "user" => unprivileged::role(&arguments),
        _ => panic!("unknown role {role}"),
    }
}
