//! An output beside its recording.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::blobs::{self, Blob};
use super::{Made, list, listing, text};

pub(super) fn outputs(case: &Value, made: &[Made]) -> Result<(), String> {
    let expected = list(&case["outputs"]);
    if expected.len() != made.len() {
        return Err(format!("{} outputs, not {}", made.len(), expected.len()));
    }
    let is_compressed = text(&case["group"]) == "compression";
    for (expected, made) in expected.iter().zip(made) {
        match text(&expected["type"]) {
            "local" => listings(expected, &listing::directory(&made.path))?,
            "tar" => {
                let entries = listing::entries(&std::fs::read(&made.path).unwrap());
                let fields: Vec<_> = entries.into_iter().map(|entry| entry.fields).collect();
                listings(expected, &fields)?;
            }
            "image" => {
                let descriptor = &made.exported.response["containerimage.descriptor"];
                let root =
                    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, descriptor);
                let root: Value = serde_json::from_slice(&root.unwrap()).unwrap();
                let read = blobs::of_store(&made.result.store);
                images(expected, &blobs::reachable(&root, &read), is_compressed)?;
            }
            _ => archive(expected, &made.path, is_compressed)?,
        }
        json_files(expected, &made.path)?;
        if !is_compressed && list(&case["outputs"]).len() == 1 {
            response(case, made)?;
        }
    }
    Ok(())
}

/// What the client gets back.
fn response(case: &Value, made: &Made) -> Result<(), String> {
    let unstable = list(&case["exporter_response_unstable"]);
    let expected = case["exporter_response"].as_object().unwrap();
    let found = &made.exported.response;
    if !expected.keys().eq(found.keys()) {
        return Err(format!("response {found:?}, not {expected:?}"));
    }
    for (key, value) in expected {
        // What was given with the result is the same each time, but times of exports are not.
        let varies = unstable.iter().any(|unstable| text(unstable) == key);
        if !varies && found[key] != text(value) {
            return Err(format!("response {key} is {}, not {value}", found[key]));
        }
    }
    Ok(())
}

fn archive(expected: &Value, path: &Path, is_compressed: bool) -> Result<(), String> {
    let members = blobs::members(path);
    let stability = &expected["stability"];
    let member = |name: &str| {
        let found = members.iter().find(|(member, _)| member == name);
        found
            .map(|(_, bytes)| bytes.clone())
            .ok_or_else(|| format!("no {name}"))
    };
    let index: Value = serde_json::from_slice(&member("index.json")?).unwrap();
    let read = |digest: &str| member(&format!("blobs/{}", digest.replace(':', "/"))).unwrap();
    let found = blobs::reachable(&index["manifests"][0], &read);
    images(expected, &found, is_compressed)?;
    for (name, wanted) in expected["archive_texts"].as_object().unwrap() {
        let found = member(name)?;
        let varies = list(&stability["archive_texts_unstable"][name]);
        let masks: Vec<&str> = match is_compressed {
            true => vec!["/manifests/0/digest"],
            false => varies.iter().map(text).collect(),
        };
        documents(name, &found, text(wanted), &masks)?;
    }
    let names: Vec<_> = members.iter().map(|(name, _)| json!(name)).collect();
    let stable = stability["archive_members"] == json!(true) && !is_compressed;
    if stable && names != list(&expected["archive_members"]) {
        return Err(format!(
            "members {names:?}, not {}",
            expected["archive_members"]
        ));
    }
    if names.len() != list(&expected["archive_members"]).len() {
        return Err(format!("{} members", names.len()));
    }
    Ok(())
}

fn images(expected: &Value, found: &[Blob], is_compressed: bool) -> Result<(), String> {
    let wanted = list(&expected["blobs"]);
    let types = |blobs: Vec<&str>| blobs.join(" ");
    let (left, right) = (
        types(found.iter().map(|blob| blob.media_type.as_str()).collect()),
        types(
            wanted
                .iter()
                .map(|blob| text(&blob["media_type"]))
                .collect(),
        ),
    );
    if left != right {
        return Err(format!("blobs are {left}, not {right}"));
    }
    let pairs = found.iter().zip(wanted);
    let wrong =
        pairs.filter_map(|(found, wanted)| blob(expected, found, wanted, is_compressed).err());
    let wrong: Vec<String> = wrong.collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

fn blob(expected: &Value, found: &Blob, wanted: &Value, is_compressed: bool) -> Result<(), String> {
    let stability = &expected["stability"];
    let digest = text(&wanted["digest"]);
    if found.size != found.bytes.len() as u64 {
        return Err(format!("{digest}: the size is wrong"));
    }
    if let Some(text_wanted) = wanted["text"].as_str() {
        let varies = list(&stability["blobs_unstable"][digest]).iter();
        let mut masks: Vec<String> = varies.map(|mask| text(mask).to_owned()).collect();
        if is_compressed && found.media_type.contains("manifest") {
            let document: Value = serde_json::from_str(text_wanted).unwrap();
            for at in 0..list(&document["layers"]).len() {
                masks.push(format!("/layers/{at}/digest"));
                masks.push(format!("/layers/{at}/size"));
            }
        }
        let masks: Vec<&str> = masks.iter().map(String::as_str).collect();
        return documents(digest, &found.bytes, text_wanted, &masks);
    }
    let diff_id = text(&wanted["diff_id"]);
    let mut layers = list(&expected["layers"]).iter();
    let layer = layers.find(|layer| text(&layer["diff_id"]) == diff_id);
    let tar = found.tar();
    if let Some(layer) = layer.filter(|layer| layer.get("entries").is_some()) {
        let entries = listing::entries(&tar).into_iter();
        let fields: Vec<_> = entries.map(|entry| entry.fields).collect();
        rows(
            &format!("layer {diff_id}"),
            list(&layer["entries"]),
            &fields,
        )?;
    }
    let stable = &stability["layers"][diff_id]["diff_id"];
    let found_id = ashlar_llb::DiffId::of(&tar).to_string();
    if *stable != json!(false) && found_id != diff_id {
        return Err(format!("diff id {found_id}, not {diff_id}"));
    }
    Ok(())
}

/// Takes out what a JSON pointer leads to, and an object that is empty then.
fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    let key = key.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent) {
        Some(Value::Object(object)) => {
            object.remove(&key);
            if object.is_empty() {
                remove(value, parent);
            }
        }
        Some(Value::Array(array)) => {
            if let Some(item) = key.parse().ok().and_then(|at: usize| array.get_mut(at)) {
                *item = Value::Null;
            }
        }
        _ => {}
    }
}

/// Two documents, byte for byte unless something in them varies.
fn documents(name: &str, found: &[u8], wanted: &str, masks: &[&str]) -> Result<(), String> {
    let found = String::from_utf8_lossy(found);
    if found == wanted {
        return Ok(());
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| e.to_string());
    let (mut left, mut right) = (parse(&found)?, parse(wanted)?);
    for mask in masks {
        remove(&mut left, mask);
        remove(&mut right, mask);
        // What is named by another digest has another size, if a time in it has more digits.
        if let Some(descriptor) = mask.strip_suffix("/digest") {
            remove(&mut left, &format!("{descriptor}/size"));
            remove(&mut right, &format!("{descriptor}/size"));
        }
    }
    if !masks.is_empty() && left == right {
        return Ok(());
    }
    Err(format!("{name} is\n{found}\nnot\n{wanted}"))
}

fn listings(expected: &Value, found: &[Map<String, Value>]) -> Result<(), String> {
    rows("listing", list(&expected["listing"]), found)
}

/// The recording's snapshotter leaks its own marks into archives of files; they are not of the
/// result.
fn without_overlay(row: &Map<String, Value>) -> Map<String, Value> {
    let mut row = row.clone();
    if let Some(pax) = row.get_mut("pax").and_then(Value::as_object_mut) {
        pax.retain(|key, _| !key.starts_with("SCHILY.xattr.trusted.overlay."));
        if pax.is_empty() {
            row.remove("pax");
            row.insert("format".to_owned(), json!("USTAR"));
        }
    }
    row
}

/// Entries, but for what varies between two runs of the original.
fn rows(what: &str, wanted: &[Value], found: &[Map<String, Value>]) -> Result<(), String> {
    let path = |fields: &Map<String, Value>| text(&fields["path"]).to_owned();
    let left: Vec<_> = found.iter().map(path).collect();
    let right: Vec<_> = wanted
        .iter()
        .map(|row| text(&row["path"]).to_owned())
        .collect();
    if left != right {
        return Err(format!("{what}: {left:?}, not {right:?}"));
    }
    for (wanted, found) in wanted.iter().zip(found) {
        let wanted = without_overlay(wanted.as_object().unwrap());
        let is_root = path(found) == ".";
        for key in wanted.keys().chain(found.keys()) {
            // The directory that receives keeps its own owner, mode and time.
            let own = is_root && matches!(key.as_str(), "mode" | "uid" | "gid" | "mtime");
            let varies = wanted.get(key) == Some(&json!("unstable"));
            if !own && !varies && wanted.get(key) != found.get(key) {
                return Err(format!("{what}: {found:?}, not {wanted:?}"));
            }
        }
    }
    Ok(())
}

/// Statements beside files.
fn json_files(expected: &Value, path: &Path) -> Result<(), String> {
    for (name, wanted) in expected["json_files"].as_object().into_iter().flatten() {
        let found = if path.is_dir() {
            std::fs::read(path.join(name)).map_err(|error| error.to_string())?
        } else {
            let members = blobs::members(path);
            let found = members.into_iter().find(|(member, _)| member == name);
            found.ok_or_else(|| format!("no {name}"))?.1
        };
        documents(name, &found, text(wanted), &[])?;
    }
    Ok(())
}
