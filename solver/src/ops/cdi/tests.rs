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
            r#"{{"kind": "a/b", "annotations": {{"{AUTO_ALLOW}": "{free}"}}, "devices": [{{"name": "c",
               "containerEdits": {{"deviceNodes": [{{"path": "{host}"}}]}}}}]}}"#
        )
    };
    write(first.path(), "a.json", &spec("/dev/first", "false"));
    write(second.path(), "a.json", &spec("/dev/second", "true"));
    write(first.path(), "b.json", "{");
    write(first.path(), "c.json", r#"{"kind": "nothing"}"#);
    write(first.path(), "d.json", &spec("relative", "true"));
    write(first.path(), "e.yaml", "kind: a/b");
    write(first.path(), "README", "no specification");
    std::fs::create_dir(first.path().join("f.json")).unwrap();
    let registry = Registry::read(&[first.path().to_owned(), second.path().to_owned()]);
    assert_eq!(registry.problems.len(), 5, "{:?}", registry.problems);
    assert!(
        registry
            .problems
            .iter()
            .any(|it| it.ends_with("only JSON is read"))
    );
    let edits = registry.edits(&registry.find("a/b=c"));
    assert_eq!(edits[1].device_nodes[0].path, Path::new("/dev/second"));
    assert!(registry.is_free("a/b=c") && !registry.is_free("a/b=d"));
    let only_first = Registry::read(&[first.path().to_owned()]);
    assert!(!only_first.is_free("a/b=c"));
}

#[test]
fn what_is_not_done_is_noticed() {
    for (json, expected) in [
        (r#"{"env": ["A=b"], "mounts": [{"type": "bind"}]}"#, None),
        (
            r#"{"hooks": [{"hookName": "createContainer", "path": "/x"}]}"#,
            Some("hooks"),
        ),
        (
            r#"{"netDevices": [{"name": "eth0"}]}"#,
            Some("network devices"),
        ),
        (r#"{"intelRdt": {"closID": "x"}}"#, Some("Intel RDT")),
        (r#"{"mounts": [{"type": "tmpfs"}]}"#, Some("a file system")),
    ] {
        let edits: ContainerEdits = serde_json::from_str(json).unwrap();
        assert_eq!(edits.unsupported(), expected, "{json}");
    }
}
