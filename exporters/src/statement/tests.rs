use std::collections::BTreeMap;

use super::*;

fn text(attestation: Attestation, exported: &[StatementSubject]) -> Result<String, ExportError> {
    let read = predicates([&attestation], &MakeContext::new(&Cancel::new()))?;
    let [only] = &read[..] else {
        panic!("{read:?}");
    };
    let compact = String::from_utf8(only.compact(exported)?).unwrap();
    let indented = String::from_utf8(only.indented(exported)?).unwrap();
    assert_eq!(json::squeeze(&indented), compact);
    Ok(compact)
}

fn attested(predicate: &str) -> Attestation {
    Attestation::in_toto("https://example.com/p", "p.json", predicate)
}

#[test]
fn a_predicate_keeps_its_numbers_and_order() {
    let written = text(attested("{\"k\": \"<v>\",  \"a\": 1.50}\n"), &[]).unwrap();
    assert_eq!(
        written,
        r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","subject":[],"predicate":{"k":"\u003cv\u003e","a":1.50}}"#
    );
    assert!(
        text(attested(""), &[])
            .unwrap()
            .ends_with(r#""predicate":null}"#)
    );
    for bad in ["not json", "{} {}", "{", "\u{0}"] {
        let error = text(attested(bad), &[]).unwrap_err().to_string();
        assert!(error.contains("p.json"), "{error}");
    }
}

#[test]
fn class_12_a_predicate_that_is_deep_is_refused_where_it_is_indented() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let error = text(attested(&deep), &[]).unwrap_err().to_string();
    assert!(
        error.contains("p.json") && error.contains("nested"),
        "{error}"
    );
}

#[test]
fn subjects_are_what_is_exported_or_what_is_named() {
    let exported = [
        StatementSubject::new("pkg:docker/app@v1", &BlobDigest::of(b"image")),
        StatementSubject::new("pkg:docker/app@v2", &BlobDigest::of(b"image")),
    ];
    let names = |attestation: Attestation| -> Vec<String> {
        let written = text(attestation, &exported).unwrap();
        let value: serde_json::Value = serde_json::from_str(&written).unwrap();
        let subjects = value["subject"].as_array().unwrap();
        let name = |subject: &serde_json::Value| subject["name"].as_str().unwrap().to_owned();
        subjects.iter().map(name).collect()
    };
    let itself = |name: &str| Subject::Itself {
        name: name.to_owned(),
    };
    let both = ["pkg:docker/app@v1", "pkg:docker/app@v2"];
    assert_eq!(names(attested("1")), both);
    assert_eq!(names(attested("1").subject(itself("_"))), both);
    assert_eq!(
        names(attested("1").subject(itself("x"))),
        ["pkg:docker/app@v1", "x", "pkg:docker/app@v2", "x"]
    );
    let raw = Subject::Raw {
        name: String::new(),
        digests: BTreeMap::from([("sha512".to_owned(), "ab".to_owned())]),
    };
    assert_eq!(names(attested("1").subject(raw)), ["_"]);
}

#[test]
fn frontends_attest_no_provenance_and_nothing_without_a_path() {
    let provenance = format!("{PROVENANCE}v1");
    let of_frontend = Attestation::new(
        AttestationKind::InToto,
        provenance.as_str(),
        "p",
        AttestationContent::File(Ref::scratch()),
    );
    let error = text(of_frontend, &[]).unwrap_err().to_string();
    assert!(error.contains("may not attest provenance"), "{error}");
    assert!(text(Attestation::in_toto(provenance, "p", "{}"), &[]).is_ok());
    assert!(text(Attestation::in_toto("x", "", "{}"), &[]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn class_12_all_that_is_attested_has_a_ceiling() {
    use ashlar_llb::{self as llb, Constraints, Platform, mkdir};
    use ashlar_solver::solver::{SolveRequest, Solver};

    // Of 100 bytes with white space, which does not count, and 10 as its predicate.
    let statement = format!(r#"{{"predicate":{}"12345678"}}"#, " ".repeat(76));
    let made = mkdir("/bundle")
        .mkfile("/bundle/a", statement.clone())
        .mkfile("/bundle/b", statement);
    let tree = llb::scratch().file(made);
    let definition = tree.marshal(&Constraints::new(Platform::of_target()));
    let folder = tempfile::tempdir().unwrap();
    let solver = Solver::builder().root(folder.path()).build().unwrap();
    let request = SolveRequest::new(definition.unwrap());
    let result = solver.solve(request).result().await.unwrap().result;
    let content = AttestationContent::File(result.reference().clone());
    let bundle = Attestation::new(AttestationKind::Bundle, "", "/bundle", content);
    let all = [bundle, attested("12345")];
    let read = |limit| read_within(limit, &all, &MakeContext::new(&Cancel::new()));
    assert_eq!(read(25).unwrap().len(), 3);
    for (limit, at_fault) in [(24, "p.json"), (19, "/bundle")] {
        let error = read(limit).unwrap_err().to_string();
        let told = error.contains(at_fault) && error.contains(&format!("{limit} bytes"));
        assert!(told, "{error}");
    }
}
