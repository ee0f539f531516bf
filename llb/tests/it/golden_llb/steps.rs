//! Recipes: steps that are done in order, each under a name.

use std::collections::HashMap;

use ashlar_llb::{self as llb, Definition, FileTree, Passthrough, Run, SourceMap, State};
use serde_json::Value;

use super::fields::{Fields, Result, text, unsupported};
use super::marshal::{self, WithUniqueId as _, constrain};
use super::{file_steps, metadata, run_steps, sources};

/// A recipe and what was made so far.
#[derive(Clone)]
pub(super) struct Recipe<'a> {
    source_maps: &'a Value,
    states: HashMap<&'a str, State>,
    runs: HashMap<&'a str, Run>,
    trees: HashMap<&'a str, FileTree>,
    passthroughs: HashMap<&'a str, Passthrough>,
}

/// Does a recipe. The inner result is what marshalling gave.
pub(super) fn build(value: &Value) -> Result<std::result::Result<Definition, String>> {
    let fields = Fields::new(value);
    let mut recipe = Recipe {
        source_maps: fields.value("source_maps").unwrap_or(&Value::Null),
        states: HashMap::new(),
        runs: HashMap::new(),
        trees: HashMap::new(),
        passthroughs: HashMap::new(),
    };
    for step in fields.list("steps") {
        if let Err(failure) = recipe.step(step)? {
            return Ok(Err(failure));
        }
    }
    let constraints = fields.value("marshal").expect("marshal");
    let constraints = marshal::constraints(&recipe, constraints)?;
    let result = recipe.state(fields.need("result"));
    fields.finish()?;
    let definition = result.marshal(&constraints);
    Ok(definition.map_err(|error| error.to_string()))
}

/// Whether a step could be done; if not, why.
type Done = Result<std::result::Result<(), String>>;

impl<'a> Recipe<'a> {
    pub(super) fn state(&self, name: &str) -> State {
        let known = self.states.get(name);
        known.unwrap_or_else(|| panic!("no state {name}")).clone()
    }

    pub(super) fn tree(&self, name: &str) -> FileTree {
        self.trees[name].clone()
    }

    pub(super) fn source_map(&self, id: &str) -> SourceMap {
        let maps = self.source_maps.as_array().expect("source maps");
        let map = maps.iter().find(|map| map["id"] == id).expect("source map");
        let field = |key: &str| text(&map[key]).to_owned();
        let file = SourceMap::new(field("filename"), field("language"), field("data"));
        match map["state"].as_str() {
            Some(state) => file.read_from(self.state(state)),
            None => file,
        }
    }

    fn states(&self, values: &[Value]) -> Vec<State> {
        values.iter().map(|name| self.state(text(name))).collect()
    }

    fn step(&mut self, value: &'a Value) -> Done {
        let step = Fields::new(value);
        let name = step.need("as");
        if let Some(fields) = step.object("definition") {
            let inner = marshal::constraints(self, fields.value("marshal").expect("marshal"))?;
            let definition = match self.state(fields.need("of")).marshal(&inner) {
                Ok(definition) => definition,
                Err(error) => return Ok(Err(error.to_string())),
            };
            fields.finish()?;
            match State::from_definition(&definition) {
                Ok(state) => self.states.insert(name, state),
                Err(error) => return Ok(Err(error.to_string())),
            };
        } else if let Some(state) = sources::source(self, &step)? {
            self.states.insert(name, state);
        } else if let Some(state) = self.combination(&step)? {
            self.states.insert(name, state);
        } else if let Some(fields) = step.object("mount") {
            let state = self.runs[fields.need("run")].output(fields.need("target"));
            fields.finish()?;
            self.states.insert(name, state);
        } else if let Some(fields) = step.object("add_mount") {
            let state = self.add_mount(fields)?;
            self.states.insert(name, state);
        } else if let Some(fields) = step.object("passthrough_output") {
            let index = fields.number("index").expect("index");
            let index = super::fields::integer(index)?;
            let state = self.passthroughs[fields.need("of")].output(index);
            fields.finish()?;
            self.states.insert(name, state);
        } else if let Some(fields) = step.object("copy_input") {
            let actions = file_steps::actions(self, fields.list("actions"))?;
            let tree = actions.on(self.state(fields.need("state")));
            fields.finish()?;
            self.trees.insert(name, tree);
        } else if let Some(fields) = step.object("passthrough") {
            let passthrough = self.passthrough(fields)?;
            self.states.insert(name, passthrough.output(0));
            self.passthroughs.insert(name, passthrough);
        } else {
            match self.derived(&step, name, value)? {
                Ok(()) => {}
                failure => return Ok(failure),
            }
        }
        let _ = step.value("from");
        step.finish()?;
        Ok(Ok(()))
    }

    /// Ops on several states.
    fn combination(&self, step: &Fields<'_>) -> Result<Option<State>> {
        if let Some(fields) = step.object("merge") {
            let merged = llb::merge(self.states(fields.list("inputs")));
            let merged = constrain!(self, merged, fields, |it, _platform| it);
            fields.finish()?;
            return Ok(Some(merged.into()));
        }
        if let Some(fields) = step.object("diff") {
            let (lower, upper) = (fields.need("lower"), fields.need("upper"));
            let diff = llb::diff(self.state(lower), self.state(upper));
            let diff = constrain!(self, diff, fields, |it, _platform| it);
            fields.finish()?;
            return Ok(Some(diff.into()));
        }
        Ok(None)
    }

    fn passthrough(&self, fields: Fields<'_>) -> Result<Passthrough> {
        let mut passthrough = Passthrough::new(fields.text("id").unwrap_or_default());
        for value in fields.list("inputs") {
            let input = Fields::new(value);
            let state = self.state(input.need("state"));
            passthrough = if input.flag("output") {
                passthrough.hands_on(state)
            } else {
                passthrough.waits_for(state)
            };
            input.finish()?;
        }
        let passthrough = constrain!(self, passthrough, fields, |it, _platform| it);
        fields.finish()?;
        Ok(passthrough)
    }

    fn add_mount(&mut self, fields: Fields<'a>) -> Result<State> {
        let (run, target) = (fields.need("run"), fields.need("target"));
        let source = self.state(fields.need("source"));
        let mount = run_steps::mount(self, fields)?;
        let changed = self.runs[run].clone().mount(target, mount);
        let state = source.with_tree_of(changed.output(target));
        self.states.insert(run, changed.root());
        self.runs.insert(run, changed);
        Ok(state)
    }

    /// Steps on one state.
    fn derived(&mut self, step: &Fields<'a>, name: &'a str, value: &'a Value) -> Done {
        let Some(from) = step.text("from") else {
            return unsupported(format!("step {value}"));
        };
        let from = self.state(from);
        let state = if let Some(fields) = step.object("run") {
            let run = run_steps::run(self, &from, fields)?;
            let root = run.root();
            self.runs.insert(name, run);
            root
        } else if let Some(fields) = step.object("file") {
            file_steps::file(self, &from, fields)?
        } else if let Some(fields) = step.object("build") {
            let build = from.build(fields.text("filename").unwrap_or_default());
            let build = constrain!(self, build, fields, |it, platform| {
                it.op_platform(platform)
            });
            fields.finish()?;
            build.into()
        } else if let Some(fields) = step.object("requires") {
            let deps = self.states(fields.list("deps"));
            let state = from.requires(fields.text("id").unwrap_or_default(), deps);
            fields.finish()?;
            state
        } else if let Some(other) = step.text("output_of") {
            from.with_tree_of(self.state(other))
        } else if let Some(fields) = step.object("async") {
            match self.nested(&from, &fields)? {
                Ok(state) => state,
                Err(failure) => return Ok(Err(failure)),
            }
        } else if let Some(state) = metadata::apply(self, &from, step)? {
            state
        } else if step.value("with").is_some() {
            let mut state = from;
            for value in step.list("with") {
                let setting = Fields::new(value);
                if let Some(changed) = metadata::apply(self, &state, &setting)? {
                    state = changed;
                }
                setting.finish()?;
            }
            state
        } else {
            return unsupported(format!("step {value}"));
        };
        self.states.insert(name, state);
        Ok(Ok(()))
    }

    /// Steps that are applied as a function of a state.
    fn nested(
        &self,
        from: &State,
        fields: &Fields<'a>,
    ) -> Result<std::result::Result<State, String>> {
        let mut outcome = Ok(Ok(()));
        let result = fields.need("result");
        let state = from.with(|input| {
            let mut inner = self.clone();
            inner.states.insert("$in", input.clone());
            for step in fields.list("steps") {
                outcome = inner.step(step);
                if !matches!(outcome, Ok(Ok(()))) {
                    return input;
                }
            }
            inner.state(result)
        });
        Ok(outcome?.map(|()| state))
    }
}
