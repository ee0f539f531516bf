//! Layers on top of each other.

use std::sync::{Arc, OnceLock};

use super::{Layer, SnapshotError};
use crate::id::{LayerId, StackId};
use crate::meta::{MetaError, Stacks};
use crate::tree::View;

/// A stack of layers, bottom to top. Cheap to clone; stacks that grew from one share it.
#[derive(Debug, Clone, Default)]
pub struct Stack(Option<Arc<Course>>);

/// The top layer of a stack and what it stands on.
#[derive(Debug)]
struct Course {
    layer: Layer,
    parent: Stack,
    depth: usize,
    view: OnceLock<View>,
    row: OnceLock<StackId>,
}

impl Drop for Course {
    fn drop(&mut self) {
        // One after the other: a deep stack dropped by recursion would overflow the call stack.
        let mut next = self.parent.0.take();
        while let Some(mut course) = next.and_then(Arc::into_inner) {
            next = course.parent.0.take();
        }
    }
}

impl Stack {
    /// The row of the stack of no layers.
    pub const SCRATCH: StackId = StackId(0);

    /// The stack of no layers.
    pub fn scratch() -> Self {
        Self(None)
    }

    /// Whether it has no layers.
    pub fn is_scratch(&self) -> bool {
        self.0.is_none()
    }

    /// How many layers it has.
    pub fn depth(&self) -> usize {
        self.0.as_ref().map_or(0, |course| course.depth)
    }

    /// The stack with one more layer on top.
    #[must_use]
    pub fn push(&self, layer: Layer) -> Self {
        Self(Some(Arc::new(Course {
            layer,
            parent: self.clone(),
            depth: self.depth() + 1,
            view: OnceLock::new(),
            row: OnceLock::new(),
        })))
    }

    /// The stack with more layers on top, the last one topmost.
    #[must_use]
    pub fn push_all(&self, layers: impl IntoIterator<Item = Layer>) -> Self {
        layers
            .into_iter()
            .fold(self.clone(), |stack, layer| stack.push(layer))
    }

    /// The layers of all stacks, those of the first at the bottom: what a merge op yields.
    #[must_use]
    pub fn merge<'a>(stacks: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut stacks = stacks.into_iter().filter(|stack| !stack.is_scratch());
        let first = stacks.next().cloned().unwrap_or_default();
        stacks.fold(first, |all, stack| all.push_all(stack.layers()))
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> Vec<Layer> {
        let mut layers: Vec<Layer> = self.courses().map(|course| course.layer.clone()).collect();
        layers.reverse();
        layers
    }

    /// The stack that the top layer stands on; scratch for scratch.
    #[must_use]
    pub fn parent(&self) -> Self {
        self.0
            .as_ref()
            .map(|course| course.parent.clone())
            .unwrap_or_default()
    }

    /// The topmost layer.
    pub fn top(&self) -> Option<&Layer> {
        self.0.as_ref().map(|course| &course.layer)
    }

    /// The merged tree. Made once, from that of the parent. Blocks while indexes are read.
    ///
    /// # Errors
    /// [`SnapshotError`] if an index is gone or damaged.
    pub fn view(&self) -> Result<View, SnapshotError> {
        let todo: Vec<&Arc<Course>> = self
            .courses()
            .take_while(|course| course.view.get().is_none())
            .collect();
        let mut view = match todo.last() {
            Some(lowest) => lowest.parent.known_view(),
            None => self.known_view(),
        };
        for course in todo.into_iter().rev() {
            let content = course.layer.content()?;
            view = content.0.onto(&view, course.layer.files());
            view = course.view.get_or_init(|| view).clone();
        }
        Ok(view)
    }

    /// Hands over the view of a stack whose maker knows it already.
    pub fn provide_view(&self, view: View) {
        if let Some(course) = &self.0 {
            let _first = course.view.set(view);
        }
    }

    /// The merged tree, if it was made before. Does not block.
    pub fn made_view(&self) -> Option<View> {
        match &self.0 {
            Some(course) => course.view.get().cloned(),
            None => Some(View::empty()),
        }
    }

    fn known_view(&self) -> View {
        self.0
            .as_ref()
            .and_then(|course| course.view.get().cloned())
            .unwrap_or_default()
    }

    /// The courses, top first.
    fn courses(&self) -> impl Iterator<Item = &Arc<Course>> {
        std::iter::successors(self.0.as_ref(), |course| course.parent.0.as_ref())
    }

    pub(super) fn with_row(self, id: StackId) -> Self {
        if let Some(course) = &self.0 {
            let _first = course.row.set(id);
        }
        self
    }

    pub(super) fn save(&self, meta: &dyn Stacks) -> Result<StackId, MetaError> {
        let rows = self.add_rows(|layer, parent| meta.add_stack(layer, parent))?;
        self.set_rows(&rows);
        Ok(self.row())
    }

    /// Adds the rows that are not known by `add`, which gets a layer and the row below it, and
    /// returns them, bottom first.
    pub(crate) fn add_rows(
        &self,
        mut add: impl FnMut(LayerId, Option<StackId>) -> Result<StackId, MetaError>,
    ) -> Result<Vec<StackId>, MetaError> {
        let todo: Vec<&Arc<Course>> = self.courses_without_row().collect();
        let mut below = match todo.last() {
            Some(lowest) => lowest.parent.row(),
            None => return Ok(Vec::new()),
        };
        let mut rows = Vec::with_capacity(todo.len());
        for course in todo.into_iter().rev() {
            let parent = (below != Self::SCRATCH).then_some(below);
            below = add(course.layer.id(), parent)?;
            rows.push(below);
        }
        Ok(rows)
    }

    /// Remembers what [`add_rows`](Self::add_rows) returned, once that is sure to stay.
    pub(crate) fn set_rows(&self, rows: &[StackId]) {
        for (course, row) in self.courses().zip(rows.iter().rev()) {
            let _first = course.row.set(*row);
        }
    }

    fn courses_without_row(&self) -> impl Iterator<Item = &Arc<Course>> {
        self.courses()
            .take_while(|course| course.row.get().is_none())
    }

    /// The row of the stack, if it is known; that of scratch otherwise.
    pub(crate) fn row(&self) -> StackId {
        self.0
            .as_ref()
            .and_then(|course| course.row.get().copied())
            .unwrap_or(Self::SCRATCH)
    }

    /// The ids of the layers, bottom first.
    pub fn layer_ids(&self) -> Vec<LayerId> {
        let mut ids: Vec<LayerId> = self.courses().map(|course| course.layer.id()).collect();
        ids.reverse();
        ids
    }
}
