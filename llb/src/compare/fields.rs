//! Which fields of matching vertices differ.

use std::collections::HashMap;

use super::matching::Matches;
use super::{FieldChange, VertexChange, VertexName};
use crate::value::{self, Fields, Message, Role};
use crate::{Edge, Field, Graph, Value, Vertex, graph};

pub(super) fn changes(before: &Graph, after: &Graph, matches: &Matches) -> Vec<VertexChange> {
    let mut changes = Vec::new();
    for (position, vertex) in before.vertices().iter().enumerate() {
        if matches.after[position].is_none() {
            let vertex = name(vertex);
            changes.push(VertexChange::Removed { vertex });
        }
    }
    for (position, vertex) in after.vertices().iter().enumerate() {
        let Some(found) = matches.before[position] else {
            let vertex = name(vertex);
            changes.push(VertexChange::Added { vertex });
            continue;
        };
        let old = &before.vertices()[found];
        let mut fields = Vec::new();
        inputs((before, old), (after, vertex), matches, &mut fields);
        differences(
            &mut String::new(),
            &described(old),
            &described(vertex),
            &mut fields,
        );
        if !fields.is_empty() {
            changes.push(VertexChange::Changed {
                before: name(old),
                after: name(vertex),
                fields,
            });
        } else if old.digest() != vertex.digest() {
            let same_inputs = same_digests((before, old), (after, vertex));
            changes.push(match same_inputs {
                false => VertexChange::InputsChanged {
                    before: name(old),
                    after: name(vertex),
                },
                // Only what this crate does not know of, or the order of fields, can differ.
                true => VertexChange::Changed {
                    before: name(old),
                    after: name(vertex),
                    fields: vec![FieldChange {
                        path: "bytes".to_owned(),
                        before: Some(Value::Bytes(old.raw().clone())),
                        after: Some(Value::Bytes(vertex.raw().clone())),
                    }],
                },
            });
        }
    }
    let result = |graph: &Graph| {
        let head = graph.head();
        head.map(|edge| (name(graph.vertex(edge.vertex)), edge.output))
    };
    let same = match (before.head(), after.head()) {
        (Some(one), Some(other)) => same_edge(one, other, matches),
        (None, None) => true,
        _ => false,
    };
    if !same {
        changes.push(VertexChange::Result {
            before: result(before),
            after: result(after),
        });
    }
    changes
}

fn name(vertex: &Vertex) -> VertexName {
    VertexName {
        digest: vertex.digest(),
        kind: graph::kind(Some(vertex.op())),
        name: vertex.name().to_owned(),
    }
}

fn same_edge(one: Edge, other: Edge, matches: &Matches) -> bool {
    matches.after[one.vertex.index()] == Some(other.vertex.index()) && one.output == other.output
}

fn same_digests((before, old): (&Graph, &Vertex), (after, new): (&Graph, &Vertex)) -> bool {
    let digests = |graph: &Graph, vertex: &Vertex| -> Vec<_> {
        let inputs = vertex.inputs().iter();
        inputs
            .map(|edge| graph.vertex(edge.vertex).digest())
            .collect()
    };
    digests(before, old) == digests(after, new)
}

/// Compares inputs by what they match, not by their digests.
fn inputs(
    (before, old): (&Graph, &Vertex),
    (after, new): (&Graph, &Vertex),
    matches: &Matches,
    out: &mut Vec<FieldChange>,
) {
    let show = |graph: &Graph, edge: Edge| {
        let name = name(graph.vertex(edge.vertex));
        Value::Text(format!("output {} of {name}", edge.output))
    };
    for position in 0..old.inputs().len().max(new.inputs().len()) {
        let (one, other) = (old.inputs().get(position), new.inputs().get(position));
        if let (Some(one), Some(other)) = (one, other)
            && same_edge(*one, *other, matches)
        {
            continue;
        }
        out.push(FieldChange {
            path: format!("inputs[{position}]"),
            before: one.map(|edge| show(before, *edge)),
            after: other.map(|edge| show(after, *edge)),
        });
    }
}

/// All that is said in and about a vertex but for its inputs.
fn described(vertex: &Vertex) -> Value {
    let mut fields = Fields::default();
    value::body(Some(vertex.op()), &mut fields);
    fields.message("platform", vertex.platform());
    fields.message("constraints", vertex.constraints());
    fields.always("metadata", vertex.metadata().to_value());
    let places = vertex.locations().map(|location| {
        let mut place = Fields::default();
        place.text("file", location.file_name());
        place.text("language", location.language());
        place.bytes("data", &location.info().data);
        place.message("definition", location.info().definition.as_ref());
        place.messages("ranges", location.ranges());
        Value::Fields(place.0)
    });
    fields.list("source", places.collect());
    Value::Fields(fields.0)
}

/// Notes every place at which two values differ, as deep as possible.
fn differences(path: &mut String, old: &Value, new: &Value, out: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Fields(old), Value::Fields(new)) => {
            // Maps of foreign definitions can be long.
            fn by_name(fields: &[Field]) -> HashMap<&str, &Value> {
                let fields = fields.iter();
                fields.map(|field| (&*field.name, &field.value)).collect()
            }
            let (old_names, new_names) = (by_name(old), by_name(new));
            for field in old {
                let other = new_names.get(&*field.name).copied();
                nested(path, field, |path| {
                    one_side(path, Some(&field.value), other, out);
                });
            }
            for field in new {
                if !old_names.contains_key(&*field.name) {
                    nested(path, field, |path| {
                        one_side(path, None, Some(&field.value), out);
                    });
                }
            }
        }
        (Value::List(old), Value::List(new)) => {
            for position in 0..old.len().max(new.len()) {
                let length = path.len();
                path.push_str(&format!("[{position}]"));
                one_side(path, old.get(position), new.get(position), out);
                path.truncate(length);
            }
        }
        _ => one_side_value(path, Some(old), Some(new), out),
    }
}

/// Runs `inner` with the name of a field added to the path.
fn nested(path: &mut String, field: &Field, inner: impl FnOnce(&mut String)) {
    let length = path.len();
    match field.role {
        Role::Wrapper => {}
        Role::Key => path.push_str(&format!("[{:?}]", field.name)),
        Role::Plain | Role::NotInJson => {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&field.name);
        }
    }
    inner(path);
    path.truncate(length);
}

fn one_side(
    path: &mut String,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Vec<FieldChange>,
) {
    match (old, new) {
        (Some(old), Some(new)) => differences(path, old, new, out),
        _ => one_side_value(path, old, new, out),
    }
}

fn one_side_value(
    path: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Vec<FieldChange>,
) {
    out.push(FieldChange {
        path: path.to_owned(),
        before: old.cloned(),
        after: new.cloned(),
    });
}
