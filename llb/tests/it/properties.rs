//! What holds for all inputs.

use ashlar_llb::patterns::{ParentMatches, PatternMatcher, path_match};
use ashlar_llb::platform::{Platform, PlatformMatcher};
use ashlar_llb::{Reference, encode, path, pb};
use pb::op::Op;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message as _;

fn mount() -> impl Strategy<Value = pb::Mount> {
    (
        any::<[i64; 3]>(),
        ".{0,4}",
        any::<[i32; 3]>(),
        any::<bool>(),
        any::<[u32; 3]>(),
    )
        .prop_map(
            |([input, output, size], text, [mount_type, content_cache, sharing], flag, numbers)| {
                let [uid, gid, mode] = numbers;
                pb::Mount {
                    input,
                    output,
                    selector: text.clone(),
                    readonly: flag,
                    mount_type,
                    content_cache,
                    tmpfs_opt: flag.then_some(pb::TmpfsOpt { size }),
                    cache_opt: Some(pb::CacheOpt {
                        id: text.clone(),
                        sharing,
                    }),
                    ssh_opt: Some(pb::SshOpt {
                        id: text,
                        uid,
                        gid,
                        mode,
                        optional: flag,
                    }),
                    ..Default::default()
                }
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let texts = || vec(".{0,6}", 0..4);
    let source = (".{0,20}", btree_map(".{0,4}", ".{0,200}", 0..4))
        .prop_map(|(identifier, attrs)| Op::Source(pb::SourceOp { identifier, attrs }));
    let exec = (
        texts(),
        vec(any::<i32>(), 0..200),
        vec(mount(), 0..4),
        any::<[i32; 2]>(),
    )
        .prop_map(|(args, valid_exit_codes, mounts, [network, security])| {
            let meta = Some(pb::Meta {
                args,
                valid_exit_codes,
                ..Default::default()
            });
            Op::Exec(pb::ExecOp {
                meta,
                mounts,
                network,
                security,
                ..Default::default()
            })
        });
    let file = (
        any::<[i64; 3]>(),
        any::<u32>(),
        any::<i32>(),
        vec(any::<u8>(), 0..300),
    )
        .prop_map(|([input, output, timestamp], id, mode, data)| {
            let user = pb::UserOpt {
                user: Some(pb::user_opt::User::ById(id)),
            };
            let mkfile = pb::FileActionMkFile {
                mode,
                data: data.into(),
                owner: Some(pb::ChownOpt {
                    user: Some(user),
                    group: None,
                }),
                timestamp,
                ..Default::default()
            };
            let action = Some(pb::file_action::Action::Mkfile(mkfile));
            let action = pb::FileAction {
                input,
                output,
                action,
                ..Default::default()
            };
            Op::File(pb::FileOp {
                actions: vec![action],
            })
        });
    let build =
        (any::<i64>(), btree_map(".{0,4}", any::<i64>(), 0..4)).prop_map(|(builder, inputs)| {
            let inputs = inputs
                .into_iter()
                .map(|(name, input)| (name, pb::BuildInput { input }))
                .collect();
            Op::Build(pb::BuildOp {
                builder,
                inputs,
                ..Default::default()
            })
        });
    let passthrough = (".{0,4}", vec(any::<i64>(), 0..40))
        .prop_map(|(id, outputs)| Op::Passthrough(pb::PassthroughOp { id, outputs }));
    prop_oneof![source, exec, file, build, passthrough]
}

/// What `path.Match` means, by trying everything.
fn naive(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) if naive(&pattern[1..], name) => true,
        (Some(b'*'), Some(&byte)) => byte != b'/' && naive(pattern, &name[1..]),
        (Some(b'?'), Some(&byte)) => byte != b'/' && naive(&pattern[1..], &name[1..]),
        (Some(expected), Some(byte)) => expected == byte && naive(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// What the expression of a pattern with `**` means, by trying everything.
fn naive_deep(pattern: &[u8], name: &[u8]) -> bool {
    if let Some(rest) = pattern.strip_prefix(b"**") {
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let after = |at: usize| at == 0 || name[at - 1] == b'/';
        return rest.is_empty()
            || (0..=name.len()).any(|at| after(at) && naive_deep(rest, &name[at..]));
    }
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) if naive_deep(&pattern[1..], name) => true,
        (Some(b'*'), Some(&byte)) => byte != b'/' && naive_deep(pattern, &name[1..]),
        (Some(b'?'), Some(&byte)) => byte != b'/' && naive_deep(&pattern[1..], &name[1..]),
        (Some(expected), Some(byte)) => expected == byte && naive_deep(&pattern[1..], &name[1..]),
        _ => false,
    }
}

proptest! {
    #[test]
    fn ops_come_back(op in op(), index in any::<i64>(), envelope in any::<bool>()) {
        let op = pb::Op {
            inputs: vec![pb::Input { digest: "d".into(), index }],
            op: Some(op),
            platform: envelope.then(pb::Platform::default),
            constraints: envelope.then(pb::WorkerConstraints::default),
        };
        let bytes = encode::op_bytes(&op);
        let decoded = pb::Op::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(&decoded, &op);
        prop_assert_eq!(encode::op_bytes(&decoded), bytes);
    }

    #[test]
    fn globs_match_what_they_should(pattern in "[ab/*?]{0,9}", name in "[ab/]{0,9}") {
        let expected = naive(pattern.as_bytes(), name.as_bytes());
        prop_assert_eq!(path_match(&pattern, &name), Ok(expected));
    }

    // A prefix of its own keeps the pattern away from the simple kinds.
    #[test]
    fn deep_patterns_match_what_they_should(
        pattern in "(a|b|\\*|\\?|/\\*\\*|/){0,7}a",
        name in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let pattern = path::clean(&format!("?{pattern}"));
        prop_assume!(!pattern.contains("***"));
        let matcher = PatternMatcher::new([&pattern]).unwrap();
        let expected = naive_deep(pattern.as_bytes(), name.as_bytes());
        prop_assert_eq!(matcher.matches_exactly(&name), Ok(expected), "{} {}", pattern, name);
    }

    #[test]
    fn walking_agrees_where_nothing_is_excluded(
        patterns in vec("[ab*?/]{1,6}", 0..5),
        name in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let matcher = PatternMatcher::new(&patterns).unwrap();
        let mut parent = ParentMatches::default();
        for (slash, _) in name.match_indices('/') {
            parent = matcher.matches_with_parent(&name[..slash], &parent).unwrap().1;
        }
        let walked = matcher.matches_with_parent(&name, &parent).unwrap().0;
        prop_assert_eq!(matcher.matches_or_parent_matches(&name), Ok(walked));
    }

    #[test]
    fn parents_are_judged_as_if_one_by_one(
        pattern in "[ab*?/^.]{1,8}(/\\*\\*)?",
        // A first name of `.` would be no parent: paths are taken to be clean.
        name in "/?[ab\n][ab.\n]?(/[ab.\n]{0,2}){0,4}",
    ) {
        if let Ok(matcher) = PatternMatcher::new([&pattern]) {
            let one_by_one = name
                .match_indices('/')
                .map(|(slash, _)| &name[..slash])
                // What lies in the root has no parents, however that is written.
                .filter(|parent| *parent != ".")
                .chain([name.as_str()])
                .any(|path| matcher.matches_exactly(path) == Ok(true));
            prop_assume!(path::dir(&name) == name.rsplit_once('/').map_or(".", |(dir, _)| dir));
            prop_assert_eq!(
                matcher.matches_or_parent_matches(&name).unwrap_or(false), one_by_one,
                "{:?} {:?}", pattern, name
            );
        }
    }

    #[test]
    fn patterns_never_panic(pattern in "[ab!*?/\\[\\]^\\\\:é. -]{0,14}", name in any::<Vec<u8>>()) {
        if let Ok(matcher) = PatternMatcher::new([&pattern]) {
            drop(matcher.matches(&name));
            drop(matcher.matches_with_parent(&name, &ParentMatches::default()));
        }
        drop(path_match(&pattern, &name));
    }

    #[test]
    fn cleaning_is_final(path in "[a./]{0,12}") {
        let cleaned = path::clean(&path);
        prop_assert_eq!(path::clean(&cleaned), cleaned.clone());
        prop_assert_eq!(path::is_absolute(&cleaned), path::is_absolute(&path));
        prop_assert_eq!(path::join(&[&path::dir(&cleaned), path::base(&cleaned)]), cleaned);
    }

    #[test]
    fn references_come_back(text in "[aZ0._:/@\\[\\]-]{0,16}|.{0,8}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
        }
    }

    #[test]
    fn platforms_come_back(text in "[a-z0-9]{1,5}(\\([0-9.]{0,4}(\\+[a-z%2B]{1,4}){0,2}\\))?(/[a-zA-Z0-9]{1,6}){0,2}|.{0,8}") {
        if let Ok(platform) = Platform::parse_on(&text, &Platform::linux_amd64()) {
            let normalised = platform.clone().normalised();
            prop_assert_eq!(&normalised.clone().normalised(), &normalised);
            prop_assert_eq!(PlatformMatcher::only(&platform).rank(&normalised), Some(0));
            // The text is cleaned as a path, in Go as well.
            let parts = [&platform.os, &platform.architecture, &platform.variant];
            prop_assume!(!parts.iter().any(|part| [".", ".."].contains(&part.as_str())));
            let again = Platform::parse_on(&platform.format_all(), &Platform::linux_amd64());
            prop_assert_eq!(again.map(Platform::normalised), Ok(normalised));
        }
    }
}
