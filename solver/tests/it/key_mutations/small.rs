//! Merge, diff, build and passthrough ops, and sources.

use std::collections::BTreeMap;

use ashlar_llb::{BlobDigest, Platform, pb};
use ashlar_solver::ops::keys;
use ashlar_solver::source::oci_keys::{chain_key, manifest_key};
use bytes::Bytes;

use super::{Digest, Row, check, rows};

fn add(number: &mut i64) {
    *number += 1;
}

#[test]
fn cve_class_16_every_field_of_merge_ops() {
    let sample = pb::MergeOp {
        inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
    };
    let mut all: Vec<Row<pb::MergeOp>> = Vec::new();
    rows!(all, pb::MergeOp, "", MergeOp, |op| op, {
        inputs: Digest => |inputs: &mut Vec<pb::MergeInput>| inputs.swap(0, 1),
    }, nested []);
    rows!(all, pb::MergeOp, "", MergeInput, |op| &mut op.inputs[0], {
        input: Digest => add,
    }, nested []);
    check(&sample, |op| Ok(keys::merge(op)), all);
}

#[test]
fn cve_class_16_every_field_of_diff_ops() {
    let sample = pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: 0 }),
        upper: Some(pb::UpperDiffInput { input: 1 }),
    };
    let mut all: Vec<Row<pb::DiffOp>> = Vec::new();
    rows!(all, pb::DiffOp, "", LowerDiffInput, |op| op.lower.as_mut().unwrap(), {
        input: Digest => add,
    }, nested []);
    rows!(all, pb::DiffOp, "", UpperDiffInput, |op| op.upper.as_mut().unwrap(), {
        input: Digest => add,
    }, nested []);
    check(&sample, keys::diff, all);
    for side in [
        pb::DiffOp {
            lower: None,
            ..sample
        },
        pb::DiffOp {
            upper: None,
            ..sample
        },
    ] {
        assert!(keys::diff(&side).is_err());
    }
}

#[test]
fn cve_class_16_every_field_of_build_ops() {
    let sample = pb::BuildOp {
        builder: -1,
        inputs: BTreeMap::from([("a".to_owned(), pb::BuildInput { input: 0 })]),
        def: Some(pb::Definition::default()),
        attrs: BTreeMap::from([("b".to_owned(), "c".to_owned())]),
    };
    let mut all: Vec<Row<pb::BuildOp>> = Vec::new();
    rows!(all, pb::BuildOp, "", BuildOp, |op| op, {
        builder: Digest => add,
        inputs: Digest => |inputs: &mut BTreeMap<String, pb::BuildInput>| {
            inputs.insert("x".to_owned(), pb::BuildInput { input: 0 });
        },
        def: Digest => |def: &mut Option<pb::Definition>| *def = None,
        attrs: Digest => |attrs: &mut BTreeMap<String, String>| {
            attrs.insert("b".to_owned(), "x".to_owned());
        },
    }, nested []);
    rows!(all, pb::BuildOp, "", BuildInput, |op| op.inputs.get_mut("a").unwrap(), {
        input: Digest => add,
    }, nested []);
    rows!(all, pb::BuildOp, "", Definition, |op| op.def.as_mut().unwrap(), {
        def: Digest => |def: &mut Vec<Bytes>| def.push(Bytes::from_static(b"x")),
        metadata: Digest => |all: &mut BTreeMap<String, pb::OpMetadata>| {
            all.insert("d".to_owned(), pb::OpMetadata::default());
        },
        source: Digest => |source: &mut Option<pb::Source>| *source = Some(pb::Source::default()),
    }, nested []);
    check(&sample, |op| Ok(keys::build(op, 1)), all);
}

#[test]
fn cve_class_16_every_field_of_passthrough_ops() {
    let sample = pb::PassthroughOp {
        id: "id".into(),
        outputs: vec![0, 1],
    };
    let mut all: Vec<Row<pb::PassthroughOp>> = Vec::new();
    rows!(all, pb::PassthroughOp, "", PassthroughOp, |op| op, {
        id: Digest => |id: &mut String| id.push('x'),
        outputs: Digest => |outputs: &mut Vec<i64>| outputs.swap(0, 1),
    }, nested []);
    check(&sample, |op| Ok(keys::passthrough(op, 2)), all);
}

/// An image counts by what its reference leads to, not by the reference.
#[test]
fn cve_class_16_every_part_of_the_keys_of_images() {
    let digest = BlobDigest::of(b"manifest");
    let platform = Platform::linux_amd64();
    let before = manifest_key(&digest, &platform, None);
    let changes: [fn(&mut Platform); 5] = [
        |platform| platform.architecture.push('x'),
        |platform| platform.os.push('x'),
        |platform| platform.variant.push('x'),
        |platform| platform.os_version.push('x'),
        |platform| platform.os_features.push("x".into()),
    ];
    let mut keys = vec![
        before.clone(),
        manifest_key(&BlobDigest::of(b"other"), &platform, None),
        manifest_key(&digest, &platform, Some(1)),
        manifest_key(&digest, &platform, Some(2)),
    ];
    for change in changes {
        let mut platform = platform.clone();
        change(&mut platform);
        keys.push(manifest_key(&digest, &platform, None));
    }
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all);
    assert_eq!(manifest_key(&digest, &platform, None), before);

    let config = |layers: &[&str], more: &str| {
        let ids: Vec<_> = layers
            .iter()
            .map(|layer| BlobDigest::of(layer.as_bytes()).to_string())
            .collect();
        let ids = serde_json::to_string(&ids).unwrap();
        format!(r#"{{"rootfs":{{"type":"layers","diff_ids":{ids}}}{more}}}"#)
    };
    let key =
        |layers: &[&str], more: &str, limit| chain_key(config(layers, more).as_bytes(), limit);
    let two = key(&["a", "b"], "", None);
    assert_eq!(two, key(&["a", "b"], r#","config":{"Env":["A=1"]}"#, None));
    assert_eq!(two, key(&["a", "b", "c"], "", Some(2)));
    for other in [
        key(&["b", "a"], "", None),
        key(&["a"], "", None),
        key(&["a", "c"], "", None),
    ] {
        assert_ne!(two, other);
    }
}
