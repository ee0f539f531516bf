//! JSON read into known members, as Go's `encoding/json` reads it into a type.
//!
//! Owns [`Shape`]: what a type has, with those of image configs. Names of members match whatever
//! their case, of members that are there twice the last one counts, members that are not known are
//! passed over, and a value of another type is an error.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Result, Value};

use super::time::normal_time;

/// What a value has to be. Null is anything that is empty.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Flag,
    /// A whole number of 64 bits.
    Number,
    /// A time of RFC 3339; it is read in normal form.
    Time,
    List(&'static Self),
    /// An object with members of any name.
    MapOf(&'static Self),
    /// An object with these members.
    Members(&'static [(&'static str, Self)]),
}

use Shape::{Flag, List, MapOf, Members, Number, Text, Time};

const TEXTS: Shape = List(&Text);
const SET: Shape = MapOf(&Members(&[]));
const ROOTFS: Shape = Members(&[("type", Text), ("diff_ids", TEXTS)]);
const HISTORY: Shape = List(&Members(&[
    ("created", Time),
    ("created_by", Text),
    ("author", Text),
    ("comment", Text),
    ("empty_layer", Flag),
]));
const HEALTH_CHECK: Shape = Members(&[
    ("Test", TEXTS),
    ("Interval", Number),
    ("Timeout", Number),
    ("StartPeriod", Number),
    ("StartInterval", Number),
    ("Retries", Number),
]);

/// An image config with these members of its `config` beside those of OCI.
macro_rules! image {
    ($($more:expr),*) => {
        Members(&[
            ("created", Time),
            ("author", Text),
            ("architecture", Text),
            ("variant", Text),
            ("os", Text),
            ("os.version", Text),
            ("os.features", TEXTS),
            ("config", Members(&[
                ("User", Text),
                ("ExposedPorts", SET),
                ("Env", TEXTS),
                ("Entrypoint", TEXTS),
                ("Cmd", TEXTS),
                ("Volumes", SET),
                ("WorkingDir", Text),
                ("Labels", MapOf(&Text)),
                ("StopSignal", Text),
                ("ArgsEscaped", Flag),
                $($more),*
            ])),
            ("rootfs", ROOTFS),
            ("history", HISTORY),
        ])
    };
}

/// An image config of OCI.
pub(crate) const IMAGE: Shape = image!();

/// An image config of Docker.
pub(crate) const DOCKER_IMAGE: Shape = image!(
    ("Healthcheck", HEALTH_CHECK),
    ("OnBuild", TEXTS),
    ("Shell", TEXTS)
);

impl Shape {
    /// Reads JSON text. Objects of the value have known members alone, under their own names.
    pub(crate) fn read(&self, json: &[u8]) -> Result<Value> {
        self.value(serde_json::from_slice(json)?)
    }

    fn value(&self, raw: &RawValue) -> Result<Value> {
        let text = raw.get();
        if text == "null" {
            return Ok(Value::Null);
        }
        match self {
            Text => serde_json::from_str(text).map(Value::String),
            Flag => serde_json::from_str(text).map(Value::Bool),
            Number => serde_json::from_str::<i64>(text).map(Value::from),
            Time => {
                let time: String = serde_json::from_str(text)?;
                let normal = normal_time(&time);
                let normal = normal
                    .ok_or_else(|| serde_json::Error::custom(format!("`{time}` is no time")))?;
                Ok(Value::String(normal))
            }
            List(shape) => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                let items = items.into_iter().map(|item| match shape.value(item)? {
                    Value::Null => Ok(shape.nothing()),
                    value => Ok(value),
                });
                items.collect()
            }
            MapOf(shape) => {
                let members = serde_json::from_str::<Pairs<'_>>(text)?.0.into_iter();
                let members = members.map(|(name, value)| Ok((name, shape.value(value)?)));
                members.collect::<Result<Map<_, _>>>().map(Value::Object)
            }
            Members(shapes) => {
                let mut members = Map::new();
                for (name, value) in serde_json::from_str::<Pairs<'_>>(text)?.0 {
                    let exact = shapes.iter().find(|(known, _)| *known == name);
                    let folded = fold(&name);
                    let mut alike = shapes.iter();
                    let known = exact.or_else(|| alike.find(|(known, _)| fold(known) == folded));
                    let Some((name, shape)) = known else {
                        continue;
                    };
                    match shape.value(value)? {
                        // Plain values stay what they are, all others become nothing.
                        Value::Null if matches!(shape, Text | Flag | Number | Members(_)) => {}
                        Value::Null => drop(members.remove(*name)),
                        value => drop(members.insert((*name).to_owned(), value)),
                    }
                }
                Ok(Value::Object(members))
            }
        }
    }
}

impl Shape {
    /// What a value is that nobody told.
    fn nothing(&self) -> Value {
        match self {
            Text => Value::String(String::new()),
            Flag => Value::Bool(false),
            Number => Value::from(0),
            Members(_) => Value::Object(Map::new()),
            Time | List(_) | MapOf(_) => Value::Null,
        }
    }
}

/// What names that differ in case alone have in common. Two letters beyond ASCII are other cases of
/// some in it.
fn fold(name: &str) -> String {
    let letters = name.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    });
    letters.collect()
}

/// The members of an object in their order.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_match_whatever_their_case() {
        let json = r#"{"OS":"a","Architecture":"x","architecture":"y","hiſtory":[{"Created_By":"c","CREATED":"1970-01-01T00:00:01.100Z"},null],
            "unknown":[1],"rootFS":{"Diff_IDs":[null,"d"]},"os.features":null,"variant":null}"#;
        let value = IMAGE.read(json.as_bytes()).unwrap();
        let expected = serde_json::json!({
            "os": "a",
            "architecture": "y",
            "history": [{"created_by": "c", "created": "1970-01-01T00:00:01.1Z"}, {}],
            "rootfs": {"diff_ids": ["", "d"]},
        });
        assert_eq!(value, expected);
        assert_eq!(IMAGE.read(b"null").unwrap(), Value::Null);
    }

    #[test]
    fn other_types_are_refused() {
        for json in [
            "",
            "[]",
            "7",
            r#"{"os":1}"#,
            r#"{"created":"yesterday"}"#,
            r#"{"config":{"Env":"x"}}"#,
            r#"{"config":{"volumes":["x"]}}"#,
            r#"{"config":{"Labels":{"a":1}}}"#,
            r#"{"rootfs":7}"#,
            r#"{"history":[{"empty_layer":"x"}]}"#,
            r#"{"history":{}}"#,
        ] {
            assert!(IMAGE.read(json.as_bytes()).is_err(), "{json}");
        }
        let healthy = br#"{"config":{"Healthcheck":{"Interval":"1s"}}}"#;
        assert!(IMAGE.read(healthy).is_ok());
        assert!(DOCKER_IMAGE.read(healthy).is_err());
    }
}
