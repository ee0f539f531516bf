//! What the types promise: that they travel between threads, that they can be stored, that
//! misuse does not compile, and that everyone finds what they knew from Go.

use ashlar_llb::*;

#[test]
fn values_travel_between_threads_and_borrow_nothing() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<State>();
    check::<Run>();
    check::<Image>();
    check::<Local>();
    check::<Git>();
    check::<Http>();
    check::<Blob>();
    check::<OciBlob>();
    check::<OciLayout>();
    check::<RawSource>();
    check::<OpState>();
    check::<FileActions>();
    check::<Step<MakeFile>>();
    check::<CopyInput>();
    check::<Mount>();
    check::<Passthrough>();
    check::<Secret>();
    check::<Ssh>();
    check::<SourceMap>();
    check::<Constraints>();
    check::<Definition>();
    check::<MarshalError>();
    // A state is two pointers and what tells which output it is.
    assert!(size_of::<State>() <= 240, "{}", size_of::<State>());
}

#[test]
fn values_are_stored_as_texts_and_objects() {
    fn there_and_back<T>(value: &T, json: &str)
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).expect("writes"), json);
        let read: T = serde_json::from_str(json).expect("reads");
        assert_eq!(read, *value);
    }
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let digest = format!("\"sha256:{hex}\"");
    there_and_back(&OpDigest::of(b""), &digest);
    there_and_back(&BlobDigest::of(b""), &digest);
    there_and_back(&DiffId::of(b""), &digest);
    there_and_back(&ChainId::of(b""), &digest);
    there_and_back(&Checksum::from(BlobDigest::of(b"")), &digest);
    let reference: Reference = "alpine:3.20".parse().expect("parses");
    there_and_back(&reference, "\"docker.io/library/alpine:3.20\"");
    there_and_back(
        &Platform::linux_armhf(),
        r#"{"architecture":"arm","os":"linux","variant":"v7"}"#,
    );
    let config = ImageConfig {
        env: vec!["A=1".to_owned()],
        working_dir: "/src".to_owned(),
        platform: Some(Platform::linux_amd64()),
    };
    there_and_back(
        &config,
        r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"WorkingDir":"/src"}}"#,
    );
    let whole = r#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Env":null,"Cmd":["sh"]}}"#;
    let read: ImageConfig = serde_json::from_str(whole).expect("reads");
    assert_eq!(read.platform, Some(Platform::linux_arm64()));
    assert!(read.env.is_empty() && read.working_dir.is_empty());

    let constraints = Constraints::new(Platform::linux_amd64());
    let definition = image("alpine").marshal(&constraints).expect("marshals");
    let json = serde_json::to_string(&definition).expect("writes");
    assert!(json.starts_with('"'), "{json}");
    let read: Definition = serde_json::from_str(&json).expect("reads");
    assert_eq!(read, definition);
    for bad in [r#""!""#, r#""AAAA""#, "1"] {
        assert!(serde_json::from_str::<Definition>(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<OpDigest>("\"sha256:x\"").is_err());
    assert!(serde_json::from_str::<Reference>("\"Not A Reference\"").is_err());
}

/// The committed list has what `client/llb` and the packages below it export.
#[test]
fn every_name_of_the_go_client_is_on_the_page() {
    let page = include_str!("../../src/go_names.md");
    let names = include_str!("go_names.txt").lines();
    let mut count = 0;
    for name in names {
        let row = format!("| `{name}` | ");
        let found = page.lines().find_map(|line| line.strip_prefix(&row));
        let answer = found.unwrap_or_else(|| panic!("{name} is not on the page"));
        let linked = answer.contains("](") || answer.contains("no equivalent: ");
        assert!(linked, "{name} leads nowhere: {answer}");
        count += 1;
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!((count, rows), (387, 387));
}

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/misuse/*.rs");
}
