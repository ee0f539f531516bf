//! Cache configs of BuildKit, read and written again.

use ashlar_llb::BlobDigest;
use ashlar_solver::cache::CacheRecords;
use ashlar_solver::cache::records::ConfigLayer;
use base64::Engine as _;
use serde_json::Value;

use crate::golden;

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// The config that BuildKit exported, as it wrote it but for the times, which the golden data leave
/// out.
fn config(cache: &Value) -> String {
    let layers = list(&cache["layers"]).iter().map(|layer| {
        let parent = match layer["parent"].as_i64() {
            Some(0) | None => String::new(),
            Some(parent) => format!(r#","parent":{parent}"#),
        };
        format!(r#"{{"blob":{}{parent}}}"#, layer["blob"])
    });
    let link = |link: &Value| match &link["selector"] {
        Value::Null => format!(r#"{{"link":{}}}"#, link["link"]),
        selector => format!(r#"{{"selector":{selector},"link":{}}}"#, link["link"]),
    };
    let records = list(&cache["records"]).iter().map(|record| {
        let time = "0001-01-01T00:00:00Z";
        let results = list(&record["layers"]).iter();
        let results = joined(results.map(|at| format!(r#"{{"layer":{at},"createdAt":"{time}"}}"#)));
        let results = match &results[..] {
            "" => String::new(),
            results => format!(r#""layers":[{results}],"#),
        };
        let inputs = list(&record["inputs"]).iter();
        let inputs = joined(inputs.map(|links| {
            let links = joined(list(links).iter().map(link));
            format!("[{links}]")
        }));
        let inputs = match &inputs[..] {
            "" => String::new(),
            inputs => format!(r#","inputs":[{inputs}]"#),
        };
        format!(r#"{{{results}"digest":{}{inputs}}}"#, record["digest"])
    });
    let (layers, records) = (joined(layers), joined(records));
    format!(r#"{{"layers":[{layers}],"records":[{records}]}}"#)
}

#[test]
fn golden_cache_configs_are_written_as_they_were_read() {
    let test = "golden_cache_configs_are_written_as_they_were_read";
    let Some(catalogue) = golden::json_if_there(test, "cache/catalogue.json") else {
        return;
    };
    let mut compared = 0;
    for case in catalogue["cases"].as_array().expect("cases") {
        let name = case["json"].as_str().expect("json");
        let Some(data) = golden::json_if_there(test, &format!("cache/{name}")) else {
            continue;
        };
        if data["cache"].is_null() {
            continue;
        }
        let text = config(&data["cache"]);
        let records = CacheRecords::from_json(text.as_bytes()).expect(name);
        let written = String::from_utf8(records.to_json()).expect("UTF-8");
        let blobs = data["cache"]["layers"].as_array().expect("layers");
        let mut blobs: Vec<&str> = blobs
            .iter()
            .filter_map(|layer| layer["blob"].as_str())
            .collect();
        let count = blobs.len();
        blobs.sort_unstable();
        blobs.dedup();
        // Where a blob is there twice, on others each time, BuildKit's order is left to chance.
        if blobs.len() == count {
            assert_eq!(written, text, "{name}");
            compared += 1;
        }
        let again = CacheRecords::from_json(written.as_bytes()).expect(name);
        assert_eq!(again.to_json(), written.as_bytes(), "{name}");
        assert_eq!(again.records().len(), records.records().len(), "{name}");
        assert_eq!(again.layers().len(), count, "{name}");
    }
    println!("compared {compared} configs byte for byte");
    assert!(compared >= 60 || std::env::var_os("ASHLAR_GOLDEN").is_some());
}

#[test]
fn golden_inline_caches_are_written_as_they_were_read() {
    let test = "golden_inline_caches_are_written_as_they_were_read";
    let Some(catalogue) = golden::json_if_there(test, "export/catalogue.json") else {
        return;
    };
    let mut compared = 0;
    for case in catalogue["cases"].as_array().expect("cases") {
        let name = case["json"].as_str().expect("json");
        let Some(data) = golden::json_if_there(test, &format!("export/{name}")) else {
            continue;
        };
        let outputs = data["outputs"].as_array().cloned().unwrap_or_default();
        let blobs = outputs
            .iter()
            .filter_map(|output| output["blobs"].as_array());
        let blobs: Vec<(&Value, Value)> = blobs
            .flatten()
            .filter_map(|blob| {
                let text = serde_json::from_str(blob["text"].as_str()?).ok()?;
                Some((&blob["digest"], text))
            })
            .collect();
        for (digest, config) in &blobs {
            let Some(inline) = config["moby.buildkit.cache.v0"].as_str() else {
                continue;
            };
            let inline = base64::engine::general_purpose::STANDARD
                .decode(inline)
                .expect("base64");
            let mut manifests = blobs.iter();
            let manifest = manifests.find(|(_, text)| text["config"]["digest"] == **digest);
            let (_, manifest) = manifest.expect("a manifest that names the config");
            let layers: Vec<BlobDigest> = list(&manifest["layers"])
                .iter()
                .map(|layer| layer["digest"].as_str().expect("text"))
                .map(|digest| digest.parse().expect("a digest"))
                .collect();
            let named = layers.iter().copied().map(ConfigLayer::new);
            let records = CacheRecords::from_inline_json(&inline, named).expect(name);
            assert!(!records.is_empty(), "{name}");
            let written = records.to_inline_json(&layers).expect("there are results");
            assert_eq!(
                String::from_utf8_lossy(&written),
                String::from_utf8_lossy(&inline),
                "{name}"
            );
            compared += 1;
        }
    }
    println!("compared {compared} inline caches byte for byte");
    assert!(compared > 0 || std::env::var_os("ASHLAR_GOLDEN").is_some());
}
