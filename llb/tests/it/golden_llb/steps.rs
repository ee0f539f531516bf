//! Recipes: steps, each under a name, done when their outcome is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ashlar_llb::{self as llb, Definition, FileTree, Passthrough, Run, SourceMap, State};
use serde_json::Value;

use super::fields::{Fields, Result, Stop, text, unsupported};
use super::marshal::{self, WithUniqueId as _, constrain};
use super::{file_steps, metadata, run_steps, sources};

/// The steps of a recipe, or of a deferred state in it, and what was made of them so far.
#[derive(Clone)]
pub(super) struct Recipe {
    scope: Arc<Scope>,
}

struct Scope {
    source_maps: Value,
    steps: Vec<Value>,
    /// The recipe around a deferred state, and the state it is given.
    outer: Option<(Recipe, State)>,
    made: Mutex<HashMap<String, Made>>,
}

/// What a name stands for.
#[derive(Clone)]
enum Made {
    State(State),
    Run(Run),
    Tree(FileTree),
    Passthrough(Passthrough),
}

/// Does a recipe.
pub(super) fn build(value: &Value) -> Result<Definition> {
    let fields = Fields::new(value);
    let recipe = Recipe {
        scope: Arc::new(Scope {
            source_maps: fields.value("source_maps").cloned().unwrap_or_default(),
            steps: fields.list("steps").to_vec(),
            outer: None,
            made: Mutex::default(),
        }),
    };
    recipe.do_all()?;
    let constraints = fields.value("marshal").expect("marshal");
    let constraints = marshal::constraints(&recipe, constraints)?;
    let result = recipe.state(fields.need("result"))?;
    fields.finish()?;
    result.marshal(&constraints).map_err(Stop::Marshal)
}

impl Recipe {
    fn do_all(&self) -> Result<()> {
        for step in &self.scope.steps {
            self.made(text(&step["as"]))?;
        }
        Ok(())
    }

    fn made(&self, name: &str) -> Result<Made> {
        let known = self.scope.made.lock().expect("lock").get(name).cloned();
        if let Some(made) = known {
            return Ok(made);
        }
        if let Some((_, state)) = self.scope.outer.as_ref().filter(|_| name == "$in") {
            return Ok(Made::State(state.clone()));
        }
        let mut steps = self.scope.steps.iter();
        let Some(step) = steps.find(|step| step["as"] == name) else {
            let outer = self.scope.outer.as_ref();
            let (outer, _) = outer.unwrap_or_else(|| panic!("no step {name}"));
            return outer.made(name);
        };
        let made = self.step(step)?;
        let mut known = self.scope.made.lock().expect("lock");
        known.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    pub(super) fn state(&self, name: &str) -> Result<State> {
        Ok(match self.made(name)? {
            Made::State(state) => state,
            Made::Run(run) => run.root(),
            Made::Passthrough(passthrough) => passthrough.output(0),
            Made::Tree(_) => panic!("{name} is no state"),
        })
    }

    pub(super) fn tree(&self, name: &str) -> Result<FileTree> {
        match self.made(name)? {
            Made::Tree(tree) => Ok(tree),
            _ => panic!("{name} is no copy input"),
        }
    }

    fn run(&self, name: &str) -> Result<Run> {
        match self.made(name)? {
            Made::Run(run) => Ok(run),
            _ => panic!("{name} is no run"),
        }
    }

    pub(super) fn source_map(&self, id: &str) -> Result<SourceMap> {
        if let Some((outer, _)) = &self.scope.outer {
            return outer.source_map(id);
        }
        let maps = self.scope.source_maps.as_array().expect("source maps");
        let map = maps.iter().find(|map| map["id"] == id).expect("source map");
        let field = |key: &str| text(&map[key]).to_owned();
        let file = SourceMap::new(field("filename"), field("language"), field("data"));
        Ok(match map["state"].as_str() {
            Some(state) => file.read_from(self.state(state)?),
            None => file,
        })
    }

    fn states(&self, values: &[Value]) -> Result<Vec<State>> {
        values.iter().map(|name| self.state(text(name))).collect()
    }

    fn step(&self, value: &Value) -> Result<Made> {
        let step = Fields::new(value);
        let name = step.need("as");
        let made = if let Some(state) = sources::source(self, &step)? {
            Made::State(state)
        } else if let Some(state) = self.combination(&step)? {
            Made::State(state)
        } else if let Some(fields) = step.object("mount") {
            let run = self.run(fields.need("run"))?;
            let target = fields.need("target");
            fields.finish()?;
            // The original gives scratch for a mount that is not there.
            Made::State(if run.has_mount(target) {
                run.output(target)
            } else {
                llb::scratch()
            })
        } else if let Some(fields) = step.object("add_mount") {
            Made::State(self.added_mount(name, fields)?)
        } else if let Some(fields) = step.object("passthrough_output") {
            let index = fields.number("index").expect("index");
            let Made::Passthrough(passthrough) = self.made(fields.need("of"))? else {
                panic!("{value}: no passthrough");
            };
            fields.finish()?;
            Made::State(passthrough.output(usize::try_from(index).unwrap_or(usize::MAX)))
        } else if let Some(fields) = step.object("copy_input") {
            let actions = file_steps::actions(self, fields.list("actions"))?;
            let tree = actions.on(self.state(fields.need("state"))?);
            fields.finish()?;
            Made::Tree(tree)
        } else if let Some(fields) = step.object("passthrough") {
            Made::Passthrough(self.passthrough(fields)?)
        } else {
            self.derived(&step, name, value)?
        };
        let _ = step.value("from");
        step.finish()?;
        Ok(made)
    }

    /// Ops on several states, and definitions taken back.
    fn combination(&self, step: &Fields<'_>) -> Result<Option<State>> {
        if let Some(fields) = step.object("merge") {
            let merged = llb::merge(self.states(fields.list("inputs"))?);
            let merged = constrain!(self, merged, fields, |it, _platform| it);
            fields.finish()?;
            return Ok(Some(merged.into()));
        }
        if let Some(fields) = step.object("diff") {
            let (lower, upper) = (fields.need("lower"), fields.need("upper"));
            let diff = llb::diff(self.state(lower)?, self.state(upper)?);
            let diff = constrain!(self, diff, fields, |it, _platform| it);
            fields.finish()?;
            return Ok(Some(diff.into()));
        }
        if let Some(fields) = step.object("definition") {
            let inner = marshal::constraints(self, fields.value("marshal").expect("marshal"))?;
            let definition = self.state(fields.need("of"))?.marshal(&inner);
            fields.finish()?;
            let definition = definition.map_err(Stop::Marshal)?;
            let state = State::from_definition(&definition).map_err(Stop::Import)?;
            return Ok(Some(state));
        }
        Ok(None)
    }

    fn passthrough(&self, fields: Fields<'_>) -> Result<Passthrough> {
        let mut passthrough = Passthrough::new(fields.text("id").unwrap_or_default());
        for value in fields.list("inputs") {
            let input = Fields::new(value);
            let state = self.state(input.need("state"))?;
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

    /// The mounts that later steps add to a run: in the original they change it for all who
    /// use it.
    fn added_mounts(&self, run: &str) -> impl Iterator<Item = &Value> {
        let steps = self.scope.steps.iter();
        steps.filter(move |step| step["add_mount"]["run"] == run)
    }

    /// What the run leaves at a mount that was added to it.
    fn added_mount(&self, name: &str, fields: Fields<'_>) -> Result<State> {
        let (run, target) = (fields.need("run"), fields.need("target"));
        let source = self.state(fields.need("source"))?;
        run_steps::mount(self, fields)?;
        let same = self
            .added_mounts(run)
            .filter(|step| step["add_mount"]["target"] == target);
        let after = same.skip_while(|step| step["as"] != name).count();
        let outputs = self.run(run)?.outputs(target);
        Ok(source.with_tree_of(&outputs[outputs.len() - after]))
    }

    /// Steps on one state.
    fn derived(&self, step: &Fields<'_>, name: &str, value: &Value) -> Result<Made> {
        let Some(from) = step.text("from") else {
            return unsupported(format!("step {value}"));
        };
        let from = self.state(from)?;
        Ok(Made::State(if let Some(fields) = step.object("run") {
            let mut run = run_steps::run(self, &from, fields)?;
            for added in self.added_mounts(name) {
                let fields = Fields::new(&added["add_mount"]);
                let target = fields.need("target");
                run = run.mount(target, run_steps::mount(self, fields)?);
            }
            return Ok(Made::Run(run));
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
            let deps = self.states(fields.list("deps"))?;
            let state = from.requires(fields.text("id").unwrap_or_default(), deps);
            fields.finish()?;
            state
        } else if let Some(other) = step.text("output_of") {
            from.with_tree_of(self.state(other)?)
        } else if let Some(fields) = step.object("async") {
            let outer = self.clone();
            let steps = fields.list("steps").to_vec();
            let result = fields.need("result").to_owned();
            fields.finish()?;
            from.defer(move |input, _constraints| {
                let inner = Self {
                    scope: Arc::new(Scope {
                        source_maps: Value::Null,
                        steps: steps.clone(),
                        outer: Some((outer.clone(), input)),
                        made: Mutex::default(),
                    }),
                };
                inner.do_all()?;
                inner.state(&result)
            })
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
        }))
    }
}
