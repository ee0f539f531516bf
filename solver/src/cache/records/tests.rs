use ashlar_llb::BlobDigest;
use proptest::prelude::*;

use super::*;

fn digest(name: &str) -> RecordDigest {
    RecordDigest::of(name.as_bytes())
}

fn blob(name: &str) -> ConfigLayer {
    ConfigLayer::new(BlobDigest::of(name.as_bytes()))
}

fn time(seconds: i64) -> Timestamp {
    let nanoseconds = 0;
    Timestamp {
        seconds,
        nanoseconds,
    }
}

fn link(record: usize) -> RecordLink {
    let selector = None;
    RecordLink { selector, record }
}

/// A record with links without selectors.
fn record(name: &str, inputs: &[&[usize]]) -> DraftRecord {
    let links = |input: &&[usize]| input.iter().copied().map(link).collect();
    DraftRecord {
        digest: digest(name),
        inputs: inputs.iter().map(links).collect(),
        results: Vec::new(),
    }
}

fn draft(records: &[(&str, &[&[usize]])]) -> Draft<ConfigLayer> {
    let mut draft = Draft::new();
    for (name, inputs) in records {
        draft.add_record(record(name, inputs));
    }
    draft
}

/// Records as text: name, and names of the links of each input, sorted.
fn shown(records: &CacheRecords<ConfigLayer>, names: &[&str]) -> Vec<String> {
    let name = |of: RecordDigest| {
        let known = names.iter().find(|name| digest(name) == of);
        (*known.unwrap()).to_owned()
    };
    let mut shown: Vec<String> = records
        .records()
        .iter()
        .map(|record| {
            let inputs = record.inputs.iter().map(|links| {
                let mut links: Vec<String> = links
                    .iter()
                    .map(|link| name(records.records()[link.record].digest))
                    .collect();
                links.sort();
                links.join("|")
            });
            let inputs: Vec<String> = inputs.collect();
            format!("{}({})", name(record.digest), inputs.join(","))
        })
        .collect();
    shown.sort();
    shown
}

const CONFIG: &str = concat!(
    r#"{"layers":["#,
    r#"{"blob":"sha256:1111111111111111111111111111111111111111111111111111111111111111","parent":1},"#,
    r#"{"blob":"sha256:2222222222222222222222222222222222222222222222222222222222222222","parent":-1},"#,
    r#"{"blob":"sha256:3333333333333333333333333333333333333333333333333333333333333333","#,
    r#""annotations":{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","#,
    r#""diffID":"sha256:4444444444444444444444444444444444444444444444444444444444444444","#,
    r#""size":7,"createdAt":"2026-01-02T03:04:05.006Z"}}"#,
    r#"],"records":["#,
    r#"{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"},"#,
    r#"{"layers":[{"layer":2,"createdAt":"2026-01-02T03:04:05.123456789Z"}],"#,
    r#""digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","#,
    r#""inputs":[[{"link":0},{"selector":"sha256:8a5edab282632443219e051e4ade2d1d5bbc671c781051bf1437897cbdfea0f1","link":2}],[{"link":0}]]},"#,
    r#"{"layers":[{"layer":0,"createdAt":"0001-01-01T00:00:00Z"}],"#,
    r#""digest":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","inputs":[[{"link":0}]]}"#,
    r#"]}"#,
);

#[test]
fn a_config_is_written_as_it_was_read() {
    let records = CacheRecords::from_json(CONFIG.as_bytes()).unwrap();
    assert_eq!(records.records().len(), 3);
    // The layer without a parent lies on layer 0.
    let depths: Vec<usize> = (0..3).map(|at| records.chain(at).len()).collect();
    assert_eq!(depths, [1, 2, 3]);
    assert_eq!(String::from_utf8(records.to_json()).unwrap(), CONFIG);
    // Empty lists are null, or not there.
    for text in ["{}", r#"{"layers":null,"records":[]}"#] {
        let empty = CacheRecords::from_json(text.as_bytes()).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.to_json(), b"{}");
    }
}

#[test]
fn order_does_not_depend_on_where_things_stood() {
    let build = |order: &[usize]| {
        let mut draft = Draft::new();
        let layers = [&["a", "b"][..], &["c", "b"], &["b"], &["a", "c", "b"]];
        let mut places = vec![0; order.len()];
        for (place, &at) in order.iter().enumerate() {
            places[at] = place;
        }
        for &at in order {
            let top = draft.add_layers(layers[at].iter().map(|name| blob(name)));
            let mut new = match at {
                0 => record("root", &[]),
                // Equal but for what they are made of.
                1 => record("op", &[&[places[0]]]),
                2 => record("op", &[&[places[1]]]),
                _ => record("op", &[&[places[2], places[1]]]),
            };
            let created = time(1);
            new.results = top
                .map(|layer| RecordResult { layer, created })
                .into_iter()
                .collect();
            draft.add_record(new);
        }
        String::from_utf8(draft.finish().to_json()).unwrap()
    };
    let first = build(&[0, 1, 2, 3]);
    for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        assert_eq!(build(&order), first, "{order:?}");
    }
}

#[test]
fn only_the_newest_result_is_written_and_layers_without_result_are_not() {
    let mut draft = Draft::new();
    let at = |layer: usize, seconds| RecordResult {
        layer,
        created: time(seconds),
    };
    let old = draft.add_layer(None, blob("old"));
    let new = draft.add_layer(None, blob("new"));
    draft.add_layer(Some(new), blob("nobody's"));
    let mut made = record("op", &[]);
    made.results = vec![at(old, 1), at(new, 3), at(old, 2)];
    draft.add_record(made);
    let records = draft.finish();
    assert_eq!(records.layers().len(), 2);
    let read = CacheRecords::from_json(&records.to_json()).unwrap();
    assert_eq!(read.layers().len(), 1);
    assert_eq!(read.layers()[0].layer, blob("new"));
    assert_eq!(read.records()[0].results, [at(0, 3)]);
}

#[test]
fn records_of_one_op_that_share_links_are_one() {
    let names = ["a", "b", "c", "op", "top"];
    let records = draft(&[
        ("a", &[]),
        ("b", &[]),
        ("c", &[]),
        ("op", &[&[0, 1], &[2]]),
        ("op", &[&[1], &[2, 0]]),
        ("op", &[&[2], &[2]]),
        ("top", &[&[3]]),
        ("top", &[&[4]]),
        ("a", &[]),
    ]);
    assert_eq!(
        shown(&records.finish(), &names),
        ["a()", "b()", "c()", "op(a|b,a|c)", "op(c,c)", "top(op)"]
    );
    let one = || draft(&[("a", &[]), ("op", &[&[0]])]).finish();
    let other = draft(&[("b", &[]), ("a", &[]), ("op", &[&[0, 1]])]).finish();
    let merged = CacheRecords::merge([one(), other, one()]);
    assert_eq!(shown(&merged, &names), ["a()", "b()", "op(a|b)"]);
}

#[test]
fn loops_are_broken_and_what_rests_on_nothing_goes() {
    let names = ["a", "op", "other", "lost"];
    // A copy that copies its own outcome, and two ops that make each other's input.
    let own = draft(&[("a", &[]), ("op", &[&[1, 0]])]);
    assert_eq!(shown(&own.finish(), &names), ["a()", "op(a)"]);
    let two = draft(&[("op", &[&[1]]), ("other", &[&[0, 2]]), ("a", &[])]);
    assert_eq!(
        shown(&two.finish(), &names),
        ["a()", "op(other)", "other(a)"]
    );
    let lost = draft(&[
        ("op", &[&[1]]),
        ("other", &[&[0]]),
        ("a", &[]),
        ("lost", &[&[2], &[]]),
    ]);
    assert_eq!(shown(&lost.finish(), &names), ["a()"]);
    // An alternative that is longer than another is no loop.
    let long = draft(&[
        ("op", &[&[1, 3]]),
        ("a", &[]),
        ("other", &[&[1]]),
        ("lost", &[&[2]]),
    ]);
    assert_eq!(
        shown(&long.finish(), &names),
        ["a()", "lost(other)", "op(a|lost)", "other(a)"]
    );
}

#[test]
fn a_long_chain_needs_no_deep_stack() {
    let mut draft = Draft::new();
    draft.add_record(record("root", &[]));
    for at in 0_usize..30_000 {
        let layer = draft.add_layer(at.checked_sub(1), blob(&at.to_string()));
        let mut next = record(&format!("op {at}"), &[&[at]]);
        let created = time(0);
        next.results.push(RecordResult { layer, created });
        draft.add_record(next);
    }
    let records = draft.finish();
    assert_eq!(records.records().len(), 30_001);
    let kept = records.map_layers(|layer| Ok::<_, ()>(Some(layer.blob)));
    assert_eq!(kept.unwrap().chain(29_999).len(), 30_000);
}

fn refused(json: &str) -> ConfigError {
    CacheRecords::from_json(json.as_bytes()).unwrap_err()
}

/// Class 16: a cache from elsewhere.
#[test]
fn class_16_hostile_configs_are_refused() {
    let named = |inputs: &str| format!(r#"{{"digest":"{}","inputs":{inputs}}}"#, digest("x"));
    let of = |records: &[String]| format!(r#"{{"records":[{}]}}"#, records.join(","));
    let linked = |at: i64| named(&format!(r#"[[{{"link":{at}}}]]"#));
    assert!(matches!(
        refused(&of(&[linked(0)])),
        ConfigError::Loop {
            what: "record",
            at: 0
        }
    ));
    assert!(matches!(
        refused(&of(&[linked(1), linked(0)])),
        ConfigError::Loop { what: "record", .. }
    ));
    for link in [1, -1, i64::MAX, i64::MIN] {
        let error = refused(&of(&[linked(link)]));
        assert!(
            matches!(error, ConfigError::Dangling { what: "record", at: 0, link: found, count: 1 } if found == link)
        );
    }
    for inputs in [
        "[[]]",
        "[null]",
        "[[{}]]",
        r#"[[{"link":0,"selector":"x"}]]"#,
    ] {
        assert!(
            matches!(refused(&of(&[named(inputs)])), ConfigError::Json(_)),
            "{inputs}"
        );
    }
    let layered = |layers: &str, result: &str| {
        let blob = BlobDigest::of(b"x");
        let layers = layers.replace("BLOB", &format!(r#""blob":"{blob}""#));
        let digest = digest("x");
        format!(r#"{{"layers":[{layers}],"records":[{{{result},"digest":"{digest}"}}]}}"#)
    };
    let first = r#""layers":[{"layer":0}]"#;
    // A layer 0 without a parent lies on itself.
    for layers in ["{BLOB}", r#"{BLOB,"parent":1},{BLOB}"#] {
        assert!(matches!(
            refused(&layered(layers, first)),
            ConfigError::Loop {
                what: "layer",
                at: 0
            }
        ));
    }
    for parent in ["1", "-2", "9223372036854775807"] {
        let layers = format!(r#"{{BLOB,"parent":{parent}}}"#);
        assert!(matches!(
            refused(&layered(&layers, first)),
            ConfigError::Dangling { what: "layer", .. }
        ));
    }
    for result in [
        r#""layers":[{"layer":1}]"#,
        r#""layers":[{"layer":-1}]"#,
        r#""chains":[{"layers":[0,2]}]"#,
    ] {
        assert!(matches!(
            refused(&layered(r#"{BLOB,"parent":-1}"#, result)),
            ConfigError::NoLayer { record: 0, .. }
        ));
    }
    for text in [
        "",
        "[]",
        "{",
        r#"{"records":{}}"#,
        r#"{"records":[{}]}"#,
        r#"{"records":[{"digest":"random:00"}]}"#,
        r#"{"layers":[{"blob":"sha256:../../etc/passwd"}]}"#,
    ] {
        assert!(matches!(refused(text), ConfigError::Json(_)), "{text}");
    }
}

/// Class 16: what is small as text is not large in memory.
#[test]
fn class_16_huge_configs_are_refused() {
    let many = "{},".repeat(1 << 20);
    assert!(matches!(
        refused(&format!(r#"{{"layers":[{many}]}}"#)),
        ConfigError::Json(_)
    ));
    let large = vec![b' '; MAX_CONFIG + 1];
    assert!(matches!(
        CacheRecords::from_json(&large),
        Err(ConfigError::TooLarge { .. })
    ));
    let layer = format!(r#"{{"blob":"{}","parent":-1}}"#, BlobDigest::of(b"x"));
    let zeros = "0,".repeat(99_999);
    let chain = format!(r#"{{"layers":[{zeros}0]}}"#);
    let chains = vec![chain; 5].join(",");
    let digest = digest("x");
    let text = format!(
        r#"{{"layers":[{layer}],"records":[{{"chains":[{chains}],"digest":"{digest}"}}]}}"#
    );
    assert!(matches!(refused(&text), ConfigError::TooManyLayers { .. }));
    let deep = "[".repeat(1 << 20);
    assert!(matches!(
        refused(&format!(r#"{{"x":{deep}"#)),
        ConfigError::Json(_)
    ));
}

#[test]
fn records_in_an_image_name_its_layers_by_number() {
    let mut draft = Draft::new();
    let result = |draft: &mut Draft<ConfigLayer>, names: &[&str]| {
        let layer = draft.add_layers(names.iter().map(|name| blob(name)));
        vec![RecordResult {
            layer: layer.unwrap(),
            created: time(1),
        }]
    };
    draft.add_record(record("root", &[]));
    for (name, layers) in [
        ("lower", &["a", "b"][..]),
        ("upper", &["b", "c"]),
        ("elsewhere", &["a", "x"]),
        ("whole", &["a", "b", "c"]),
    ] {
        let mut new = record(name, &[&[0]]);
        new.results = result(&mut draft, layers);
        draft.add_record(new);
    }
    let records = draft.finish();
    let image = ["a", "b", "c"].map(|name| BlobDigest::of(name.as_bytes()));
    let json = records.to_inline_json(&image).unwrap();
    let text = String::from_utf8(json.clone()).unwrap();
    let created = "1970-01-01T00:00:01Z";
    for (name, expected) in [
        (
            "lower",
            format!(r#""layers":[{{"layer":1,"createdAt":"{created}"}}],"#),
        ),
        (
            "upper",
            r#""chains":[{"layers":[1,2],"createdAt":"0001-01-01T00:00:00Z"}],"#.to_owned(),
        ),
        ("elsewhere", String::new()),
        (
            "whole",
            format!(r#""layers":[{{"layer":2,"createdAt":"{created}"}}],"#),
        ),
    ] {
        let expected = format!(r#"{{{expected}"digest":"{}""#, digest(name));
        assert!(text.contains(&expected), "{name}: {text}");
    }
    let read = CacheRecords::from_inline_json(&json, image.map(ConfigLayer::new)).unwrap();
    assert_eq!(read.to_inline_json(&image).unwrap(), json);
    assert_eq!(records.to_inline_json(&[BlobDigest::of(b"c")]), None);
}

prop_compose! {
    /// Up to twelve records with links anywhere.
    fn drafts()(records in prop::collection::vec(
        (0_u8..4, prop::collection::vec(prop::collection::vec(0_usize..12, 0..4), 0..3), 0_usize..4),
        0..12,
    )) -> Draft<ConfigLayer> {
        let mut draft = Draft::new();
        let count = records.len();
        for (name, inputs, layers) in records {
            let layers = (0..layers).map(|at| blob(&format!("{name} {at}")));
            let layer = draft.add_layers(layers.collect::<Vec<_>>());
            let created = time(name.into());
            draft.add_record(DraftRecord {
                digest: digest(&name.to_string()),
                inputs: inputs
                    .into_iter()
                    .map(|links| links.into_iter().filter(|&at| at < count).map(link).collect())
                    .collect(),
                results: layer.map(|layer| RecordResult { layer, created }).into_iter().collect(),
            });
        }
        draft
    }
}

proptest! {
    #[test]
    fn what_is_finished_is_sound_and_survives_json(draft in drafts()) {
        let records = draft.finish();
        for (at, record) in records.records().iter().enumerate() {
            for links in &record.inputs {
                prop_assert!(!links.is_empty());
                prop_assert!(links.iter().all(|link| link.record < at));
            }
            for result in &record.results {
                prop_assert!(result.layer < records.layers().len());
            }
        }
        let json = records.to_json();
        let read = CacheRecords::from_json(&json).unwrap();
        prop_assert_eq!(read.to_json(), json.clone());
        // What is there twice is there once; more may meet then.
        let again = CacheRecords::merge([read.clone(), read.clone()]);
        prop_assert!(again.records().len() <= read.records().len());
        prop_assert_eq!(again.is_empty(), read.is_empty());
    }
}
