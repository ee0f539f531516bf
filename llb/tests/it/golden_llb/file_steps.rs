//! File steps of recipes.

use ashlar_llb::{CopyInput, FileActions, Mode, Owner, Principal, State};
use serde_json::Value;

use super::fields::{Fields, Result, octal, text, wrapped};
use super::marshal::{WithUniqueId as _, constrain};
use super::steps::Recipe;

pub(super) fn file(recipe: &Recipe, from: &State, fields: Fields<'_>) -> Result<State> {
    let actions = actions(recipe, fields.list("actions"))?;
    // File ops have no platform: the original takes one and does not write it.
    let actions = constrain!(recipe, actions, fields, |it, _platform| it);
    fields.finish()?;
    Ok(from.file(actions))
}

pub(super) fn actions(recipe: &Recipe, values: &[Value]) -> Result<FileActions> {
    let mut actions = FileActions::new();
    for value in values {
        let fields = Fields::new(value);
        actions = if let Some(action) = fields.object("mkdir") {
            mkdir(actions, action)?
        } else if let Some(action) = fields.object("mkfile") {
            mkfile(actions, action)?
        } else if let Some(action) = fields.object("symlink") {
            symlink(actions, action)?
        } else if let Some(action) = fields.object("rm") {
            rm(actions, action)?
        } else if let Some(action) = fields.object("copy") {
            copy(recipe, actions, action)?
        } else {
            actions
        };
        fields.finish()?;
    }
    Ok(actions)
}

fn mkdir(actions: FileActions, fields: Fields<'_>) -> Result<FileActions> {
    let mut step = actions
        .mkdir(fields.need("path"))
        .mode(Mode::truncated(octal(fields.need("mode"))));
    if fields.flag("parents") {
        step = step.parents();
    }
    if let Some(value) = fields.value("owner") {
        step = step.owner(owner(value)?);
    }
    if let Some(time) = fields.text("created_time") {
        step = step.created_nanoseconds(timestamp(time));
    }
    fields.finish()?;
    Ok(step.into())
}

fn mkfile(actions: FileActions, fields: Fields<'_>) -> Result<FileActions> {
    let data = match fields.text("data_base64") {
        Some(text) => base64(text),
        None => fields.need("data").as_bytes().to_vec(),
    };
    let mut step = actions
        .mkfile(fields.need("path"), data)
        .mode(Mode::truncated(octal(fields.need("mode"))));
    if let Some(value) = fields.value("owner") {
        step = step.owner(owner(value)?);
    }
    if let Some(time) = fields.text("created_time") {
        step = step.created_nanoseconds(timestamp(time));
    }
    fields.finish()?;
    Ok(step.into())
}

fn symlink(actions: FileActions, fields: Fields<'_>) -> Result<FileActions> {
    let mut step = actions.symlink(fields.need("oldpath"), fields.need("newpath"));
    if let Some(value) = fields.value("owner") {
        step = step.owner(owner(value)?);
    }
    if let Some(time) = fields.text("created_time") {
        step = step.created_nanoseconds(timestamp(time));
    }
    fields.finish()?;
    Ok(step.into())
}

fn rm(actions: FileActions, fields: Fields<'_>) -> Result<FileActions> {
    let mut step = actions.rm(fields.need("path"));
    if fields.flag("allow_not_found") {
        step = step.allow_not_found();
    }
    if fields.flag("allow_wildcard") {
        step = step.wildcard();
    }
    fields.finish()?;
    Ok(step.into())
}

/// The options of a copy after all of them were given.
#[derive(Default)]
struct CopyOptions {
    owner: Option<Owner>,
    created: Option<i64>,
    mode: Option<Value>,
    include: Vec<String>,
    exclude: Vec<String>,
    required: Vec<String>,
    flags: Vec<&'static str>,
}

const COPY_FLAGS: [&str; 7] = [
    "follow_symlinks",
    "copy_dir_contents_only",
    "attempt_unpack",
    "create_dest_path",
    "allow_wildcard",
    "allow_empty_wildcard",
    "always_replace_existing_dest_paths",
];

impl CopyOptions {
    fn read(values: &[Value]) -> Result<Self> {
        let mut options = Self::default();
        for value in values {
            let fields = Fields::new(value);
            if let Some(info) = fields.object("info") {
                options = Self::default();
                options.common(&info)?;
                options.include = owned(info.texts("include_patterns"));
                options.required = owned(info.texts("required_paths"));
                options.flags = COPY_FLAGS
                    .into_iter()
                    .filter(|flag| info.flag(flag))
                    .collect();
                info.finish()?;
            } else {
                options.common(&fields)?;
            }
            fields.finish()?;
        }
        Ok(options)
    }

    fn common(&mut self, fields: &Fields<'_>) -> Result<()> {
        if let Some(value) = fields.value("owner") {
            self.owner = Some(owner(value)?);
        }
        if let Some(time) = fields.text("created_time") {
            self.created = Some(timestamp(time));
        }
        if let Some(mode) = fields.value("mode") {
            self.mode = Some(mode.clone());
        }
        self.exclude.extend(owned(fields.texts("exclude_patterns")));
        Ok(())
    }
}

fn copy(recipe: &Recipe, actions: FileActions, fields: Fields<'_>) -> Result<FileActions> {
    let input = copy_input(recipe, fields.object("input").expect("input"))?;
    let mut step = actions.copy(input, fields.need("src"), fields.need("dest"));
    let options = CopyOptions::read(fields.list("options"))?;
    if let Some(owner) = options.owner {
        step = step.owner(owner);
    }
    if let Some(time) = options.created {
        step = step.created_nanoseconds(time);
    }
    if let Some(mode) = &options.mode {
        let mode = Fields::new(mode);
        let bits = mode.number("bits");
        step = match (mode.text("string"), bits) {
            (Some(text), _) if !text.is_empty() => step.symbolic_mode(text),
            (_, bits) => step.mode(wrapped(bits.unwrap_or_default())),
        };
        mode.finish()?;
    }
    step = step.include(options.include).exclude(options.exclude);
    step = step.required_paths(options.required);
    for flag in options.flags {
        step = match flag {
            "follow_symlinks" => step.follow_symlinks(),
            "copy_dir_contents_only" => step.contents_only(),
            "attempt_unpack" => step.unpack(),
            "create_dest_path" => step.create_dest_path(),
            "allow_wildcard" => step.wildcard(),
            "allow_empty_wildcard" => step.allow_empty_wildcard(),
            _ => step.replace_existing(),
        };
    }
    fields.finish()?;
    Ok(step.into())
}

fn copy_input(recipe: &Recipe, fields: Fields<'_>) -> Result<CopyInput> {
    let input = if let Some(inline) = fields.object("inline") {
        let state = recipe.state(inline.need("state"))?;
        let tree = actions(recipe, inline.list("actions"))?.on(state);
        inline.finish()?;
        tree.into()
    } else if let Some(name) = fields.text("copy_input") {
        recipe.tree(name)?.into()
    } else {
        recipe.state(fields.need("state"))?.into()
    };
    fields.finish()?;
    Ok(input)
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

fn owner(value: &Value) -> Result<Owner> {
    let fields = Fields::new(value);
    let owner = if let Some(text) = fields.text("with_user") {
        text.into()
    } else if let Some(ids) = fields.value("uid_gid") {
        // Negative ids are what they are on the wire: large ones.
        let id = |position: usize| wrapped(ids[position].as_i64().expect("id"));
        (id(0), id(1)).into()
    } else {
        let principal = |key| -> Result<Option<Principal>> {
            let Some(fields) = fields.object(key) else {
                return Ok(None);
            };
            let id = wrapped(fields.number("uid").unwrap_or_default());
            let name = fields.text("name").filter(|name| !name.is_empty());
            let principal = match name {
                Some(name) => Principal::Name(name.to_owned()),
                None => Principal::Id(id),
            };
            fields.finish()?;
            Ok(Some(principal))
        };
        Owner {
            user: principal("user")?,
            group: principal("group")?,
        }
    };
    fields.finish()?;
    Ok(owner)
}

/// Reads an RFC 3339 time as nanoseconds since 1970, of which Go keeps the bits that fit.
fn timestamp(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| -> i64 { text[range].parse().expect("number") };
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let seconds = number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    let rest = &text[19..];
    let zone = rest.find(['Z', '+', '-']).expect("zone");
    let fraction = rest[..zone].trim_start_matches('.');
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().expect("fraction");
    let offset = match &rest[zone..] {
        "Z" => 0,
        zone => {
            let part =
                |range: std::ops::Range<usize>| -> i64 { zone[range].parse().expect("zone") };
            let seconds = part(1..3) * 3600 + part(4..6) * 60;
            if zone.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    // Days since 1970 of a date of the Gregorian calendar whose years begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    let days = shifted * 365 + leap_days + day_of_year - 719_468;
    let total = days * 86_400 + seconds - offset;
    total.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = alphabet
            .iter()
            .position(|known| *known == byte)
            .expect("base64");
        bits = bits << 6 | u32::try_from(digit).expect("digit");
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).expect("byte"));
        }
    }
    out
}

#[test]
fn times_and_data_of_recipes_are_read_right() {
    assert_eq!(timestamp("1970-01-01T00:00:00Z"), 0);
    let time = timestamp("2021-03-04T05:06:07.000000008Z");
    assert_eq!(time, 1_614_834_367_000_000_008);
    let time = timestamp("2000-01-01T01:00:00+01:00");
    assert_eq!(time, 946_684_800_000_000_000);
    assert_eq!(timestamp("1969-12-31T23:59:59.5Z"), -500_000_000);
    // What Go gives for its zero time.
    let zero = timestamp("0001-01-01T00:00:00Z");
    assert_eq!(zero, -6_795_364_578_871_345_152);
    assert_eq!(base64("AAH/"), [0, 1, 255]);
    assert_eq!(text(&Value::from("x")), "x");
}
