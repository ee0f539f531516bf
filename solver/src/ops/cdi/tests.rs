use super::*;

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// The specifications of BuildKit's own test of names.
fn fixtures(folder: &Path) {
    let device = |name: &str, class: &str| {
        let annotations = match class {
            "" => String::new(),
            class => format!(r#""annotations": {{"{CLASS}": "{class}"}}, "#),
        };
        let env = name.to_uppercase();
        format!(
            r#"{{"name": "{name}", {annotations}"containerEdits": {{"env": ["{env}=injected"]}}}}"#
        )
    };
    let spec = |kind: &str, devices: &[String]| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "vendor1.com/{kind}", "devices": [{}],
               "containerEdits": {{"env": ["KIND={kind}"]}}}}"#,
            devices.join(", ")
        )
    };
    write(folder, "one.json", &spec("device", &[device("foo", "")]));
    let classes = [
        device("foo", "class1"),
        device("bar", "class1"),
        device("baz", "class2"),
        device("qux", ""),
    ];
    write(folder, "class.json", &spec("deviceclass", &classes));
    let many = [
        device("foo", ""),
        device("bar", ""),
        device("baz", "class1"),
        device("qux", ""),
    ];
    write(folder, "multi.json", &spec("devicemulti", &many));
}

#[test]
fn names_lead_to_the_devices_that_buildkit_finds() {
    let folder = tempfile::tempdir().unwrap();
    fixtures(folder.path());
    let registry = Registry::read(&[folder.path().join("none"), folder.path().to_owned()]);
    assert_eq!(registry.problems, [""; 0]);
    let multi = |name: &str| format!("vendor1.com/devicemulti={name}");
    let cases = [
        (
            "vendor1.com/device=foo",
            vec!["vendor1.com/device=foo".into()],
        ),
        ("vendor1.com/devicemulti", vec![multi("bar")]),
        (
            "vendor1.com/devicemulti=*",
            ["bar", "baz", "foo", "qux"].map(multi).to_vec(),
        ),
        (
            "class1",
            vec![
                "vendor1.com/deviceclass=bar".into(),
                "vendor1.com/deviceclass=foo".into(),
                multi("baz"),
            ],
        ),
        ("vendor1.com/device=unknown", vec![]),
        ("vendor1.com", vec![]),
        ("", vec![]),
    ];
    for (name, expected) in cases {
        assert_eq!(registry.find(name), expected, "{name}");
    }
    // What is common to a specification comes once, and first.
    let edits = registry.edits(&registry.find("class1"));
    let env: Vec<&str> = edits
        .iter()
        .flat_map(|edits| &edits.env)
        .map(String::as_str)
        .collect();
    let of_class = ["KIND=deviceclass", "BAR=injected", "FOO=injected"];
    assert_eq!(
        env,
        [&of_class[..], &["KIND=devicemulti", "BAZ=injected"]].concat()
    );
}

#[test]
fn files_that_cannot_be_used_are_told_and_later_directories_win() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = |host: &str, free: &str| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "a/b", "annotations": {{"{AUTO_ALLOW}": "{free}"}},
               "devices": [{{"name": "c",
               "containerEdits": {{"deviceNodes": [{{"path": "{host}"}}]}}}}]}}"#
        )
    };
    write(first.path(), "a.json", &spec("/dev/first", "false"));
    write(second.path(), "a.json", &spec("/dev/second", "true"));
    write(first.path(), "b.json", "{");
    write(first.path(), "c.json", r#"{"kind": "nothing"}"#);
    write(first.path(), "d.json", &spec("relative", "true"));
    write(first.path(), "e.yaml", "kind: a/b");
    write(first.path(), "f.yml", "- : {");
    write(first.path(), "README", "no specification");
    std::fs::create_dir(first.path().join("f.json")).unwrap();
    let pipe = first.path().join("g.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        Mode::from(0o600),
        0,
    )
    .unwrap();
    File::create(first.path().join("h.json"))
        .unwrap()
        .set_len(MAX_FILE + 1)
        .unwrap();
    let registry = Registry::read(&[first.path().to_owned(), second.path().to_owned()]);
    assert_eq!(registry.problems.len(), 8, "{:?}", registry.problems);
    let edits = registry.edits(&registry.find("a/b=c"));
    assert_eq!(edits[1].device_nodes[0].path, Path::new("/dev/second"));
    assert!(registry.is_free("a/b=c") && !registry.is_free("a/b=d"));
    let only_first = Registry::read(&[first.path().to_owned()]);
    assert!(!only_first.is_free("a/b=c"));

    // Nobody can tell which is meant, whatever a later directory says.
    write(first.path(), "i.json", &spec("/dev/other", "true"));
    let registry = Registry::read(&[first.path().to_owned(), second.path().to_owned()]);
    assert_eq!(registry.find("a/b=c"), [""; 0]);
    let told = |it: &String| it.contains("a.json and ") && it.ends_with("both describe a/b=c");
    assert!(
        registry.problems.iter().any(told),
        "{:?}",
        registry.problems
    );
}

/// As the tools of vendors write it.
const VENDORS: &str = r#"---
cdiVersion: 0.5.0
kind: vendor.com/gpu
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/dri/card0
      type: c
      major: 226
      minor: 0
      fileMode: 0660
      permissions: rw
      uid: 0
      gid: 44
  name: "0"
- name: all
  containerEdits: &all
    env: [GPU=all, LEVEL=1]
- name: 1
  containerEdits: *all
containerEdits:
  env:
  - VISIBLE_DEVICES=void
  hooks:
  - args:
    - vendor-hook
    - create-symlinks
    - --link
    - ../lib.so.1::/usr/lib/lib.so
    env:
    - DEBUG=false
    hookName: createContainer
    path: /usr/bin/vendor-hook
    timeout: 5
  mounts:
  - containerPath: /usr/bin/gpu-info
    hostPath: /usr/bin/true
    options:
    - ro
    - nosuid
    - nodev
    - rbind
    - rprivate
"#;

#[test]
fn yaml_says_what_the_tools_of_vendors_mean() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "gpu.yaml", VENDORS);
    let registry = Registry::read(&[folder.path().to_owned()]);
    assert_eq!(registry.problems, [""; 0]);
    let names = ["0", "1", "all"].map(|name| format!("vendor.com/gpu={name}"));
    assert_eq!(registry.find("vendor.com/gpu=*"), names);
    assert_eq!(registry.find("vendor.com/gpu=all"), names[2..]);
    let edits = registry.edits(&names);
    let [common, zero, one, all] = &edits[..] else {
        panic!("{edits:?}")
    };
    assert_eq!(common.env, ["VISIBLE_DEVICES=void"]);
    assert_eq!(common.hooks[0].args[3], "../lib.so.1::/usr/lib/lib.so");
    assert_eq!(common.hooks[0].timeout, Some(5));
    let mount = &common.mounts[0];
    assert!(mount.is_bind() && mount.has("ro") && mount.has("nosuid") && !mount.has("noexec"));
    let node = &zero.device_nodes[0];
    assert_eq!(node.host(), Path::new("/dev/dri/card0"));
    assert_eq!(
        (node.major, node.minor, node.uid, node.gid),
        (226, 0, Some(0), Some(44))
    );
    assert_eq!(node.file_mode, Some(0o660));
    assert_eq!(one.env, ["GPU=all", "LEVEL=1"]);
    assert_eq!(all.env, one.env);
}

#[test]
fn yaml_that_blows_up_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    let strings = VENDORS.replace("[GPU=all, LEVEL=1]", "*a11") + "extra:\n" + &bomb;
    let deep = format!("devices: {}", "[".repeat(200_000));
    let nested = format!("devices:\n{}", "- ".repeat(200_000));
    let anchors: String = (0..300_000).map(|it| format!("- &b{it} x\n")).collect();
    for text in [
        &*bomb,
        &strings,
        &deep,
        &nested,
        &anchors,
        "a: &a [*a]",
        "!!binary x",
        "%YAML 9",
    ] {
        assert!(
            yaml(text.as_bytes()).is_err(),
            "{}",
            &text[..text.len().min(80)]
        );
    }
    // Two documents, a key twice, and bytes that are no text.
    assert!(yaml(format!("{VENDORS}{VENDORS}").as_bytes()).is_err());
    assert!(yaml(b"kind: a/b\nkind: c/d\n").is_err());
    assert!(yaml(b"kind: \xff\xfe\n").is_err());
}

#[test]
fn the_rules_of_the_specification_are_kept() {
    let edits = r#"{"env": ["A=b"]}"#;
    let spec = |version: &str, kind: &str, name: &str, edits: &str| {
        format!(
            r#"{{"cdiVersion": "{version}", "kind": "{kind}",
               "devices": [{{"name": "{name}", "containerEdits": {edits}}}]}}"#
        )
    };
    let one = |edits: &str| spec("1.1.0", "a.b/c", "d", edits);
    let old = |version: &str, edits: &str| spec(version, "a.b/c", "d", edits);
    let hook = |name: &str, path: &str| {
        format!(r#"{{"hooks": [{{"hookName": "{name}", "path": "{path}"}}]}}"#)
    };
    let node = |members: &str| format!(r#"{{"deviceNodes": [{{{members}}}]}}"#);
    let cases = [
        (one(edits), ""),
        (spec("v0.3.0", "a.b/c", "d", edits), ""),
        (spec("", "a.b/c", "d", edits), "there is no version \"\""),
        (
            spec("1.2.0", "a.b/c", "d", edits),
            "there is no version \"1.2.0\"",
        ),
        (spec("1.1.0", "c", "d", edits), "no kind of device"),
        (spec("1.1.0", "/c", "d", edits), "no kind of device"),
        (spec("1.1.0", "1a/c", "d", edits), "no kind of device"),
        (spec("1.1.0", "a/c-", "d", edits), "no kind of device"),
        (spec("1.1.0", "a/b/c", "d", edits), "no kind of device"),
        (spec("1.1.0", "a/c", "", edits), "no name of a device"),
        (spec("1.1.0", "a/c", "d=e", edits), "no name of a device"),
        (spec("1.1.0", "a/c", "d.", edits), "no name of a device"),
        (spec("1.1.0", "a/c", "0:a_b", edits), ""),
        (spec("0.4.0", "a/c", "0", edits), "is there since 0.5.0"),
        (spec("0.5.0", "a/c.d", "e", edits), "is there since 0.6.0"),
        (
            old("0.4.0", &node(r#""path": "/d", "hostPath": "/e""#)),
            "since 0.5.0",
        ),
        (old("0.6.0", r#"{"additionalGids": [1]}"#), "since 0.7.0"),
        (
            old("0.6.0", r#"{"intelRdt": {"closID": "x"}}"#),
            "since 0.7.0",
        ),
        (
            old("1.0.0", r#"{"intelRdt": {"enableMonitoring": true}}"#),
            "since 1.1.0",
        ),
        (
            old(
                "0.3.0",
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "none"}]}"#,
            ),
            "since 0.4.0",
        ),
        (one("{}"), "nothing comes with it"),
        (one(r#"{"env": ["=b"]}"#), "no variable with a value"),
        (one(r#"{"env": ["b"]}"#), "no variable with a value"),
        (one(r#"{"unknown": 1}"#), "unknown field `unknown`"),
        (one(&node("")), "is not absolute"),
        (
            one(&node(r#""path": "/d", "type": "x""#)),
            "no type of a device node",
        ),
        (
            one(&node(r#""path": "/d", "permissions": "rx""#)),
            "are no permissions",
        ),
        (one(&node(r#""path": "/d", "major": -1"#)), "invalid value"),
        (one(&hook("createRuntime", "/x")), ""),
        (one(&hook("createHost", "/x")), "no name of a hook"),
        (one(&hook("poststop", "x")), "is not absolute"),
        (
            one(r#"{"mounts": [{"hostPath": "a", "containerPath": "/b"}]}"#),
            "is not absolute",
        ),
        (
            one(r#"{"mounts": [{"containerPath": "/b", "type": "tmpfs"}]}"#),
            "no path of the host",
        ),
        (
            one(r#"{"intelRdt": {"closID": ".."}}"#),
            "no class of service",
        ),
        (one(r#"{"netDevices": [{"name": "a"}]}"#), "has no name"),
        (
            r#"{"cdiVersion": "0.6.0", "kind": "a/b"}"#.to_owned(),
            "there are no devices",
        ),
        (
            one(edits).replace(
                "\"devices\": [",
                &format!(r#""devices": [{{"name": "d", "containerEdits": {edits}}}, "#),
            ),
            "there are several devices",
        ),
        (
            one(edits).replace(
                "\"name\": \"d\"",
                r#""name": "d", "annotations": {"a b": "c"}"#,
            ),
            "no key of an annotation",
        ),
    ];
    for (json, expected) in cases {
        // JSON is YAML too.
        for format in ["json", "yaml"] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &format!("a.{format}"), &json);
            let problems = Registry::read(&[folder.path().to_owned()]).problems;
            let told = problems.first().map_or("", String::as_str);
            let is_right = match expected {
                "" => told.is_empty(),
                // Each parser has words of its own for what is no member, or no number.
                "unknown field `unknown`" | "invalid value" => !told.is_empty(),
                _ => told.contains(expected),
            };
            assert!(is_right, "{json}: {told}");
        }
    }
}

#[test]
fn what_is_not_done_is_noticed() {
    for (json, expected) in [
        (r#"{"env": ["A=b"], "mounts": [{"type": "bind"}]}"#, None),
        (
            r#"{"hooks": [{"hookName": "createContainer", "path": "/x"}]}"#,
            None,
        ),
        (r#"{"mounts": [{"type": "tmpfs"}]}"#, None),
        (
            r#"{"mounts": [{"type": "ext4", "options": ["rbind"]}]}"#,
            None,
        ),
        (
            r#"{"netDevices": [{"name": "eth0"}]}"#,
            Some("moving network devices"),
        ),
        (r#"{"intelRdt": {"closID": "x"}}"#, Some("Intel RDT")),
        (
            r#"{"mounts": [{"type": "ext4"}]}"#,
            Some("mounting a file system"),
        ),
    ] {
        let edits: ContainerEdits = serde_json::from_str(json).unwrap();
        assert_eq!(edits.unsupported(), expected, "{json}");
    }
    for (options, expected) in [
        (r#"["size=64k", "mode=755"]"#, Some(64 << 10)),
        (r#"["size=1", "size=2m"]"#, Some(2 << 20)),
        (r#"["size=50%"]"#, None),
        (r#"["size=99999999999999999999"]"#, None),
        ("[]", None),
    ] {
        let json = format!(r#"{{"mounts": [{{"type": "tmpfs", "options": {options}}}]}}"#);
        let edits: ContainerEdits = serde_json::from_str(&json).unwrap();
        assert_eq!(edits.mounts[0].size(), expected, "{options}");
    }
}
