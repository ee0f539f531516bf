//! Running one vertex: alone, or together with whoever runs the same.

use std::time::{Duration, UNIX_EPOCH};

use super::build::{Event, RunRequest};
use super::flight::{FlightKey, Flights, Landing, Owner, Role, Waiter};
use crate::cache::{
    Cache, ContentChanges, InputPart, Link, NewRecords, NewResult, RecordBatch, ResultSource,
    RunKey,
};
use crate::clock::Clock;
use crate::error::{Blame, Failure, Fault, OperationError};
use crate::id::{CacheKey, ContentDigest};
use crate::operation::{Context, Operation, Results, RunLock, RunLocks};
use crate::sync::{Arc, OwnedSemaphorePermit, Semaphore, sleep};

/// An operation broke the rules of its seam.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeamError {
    /// It returned fewer values than it has outputs.
    #[error("the operation returned {returned} values, and output {wanted} is wanted")]
    Outputs {
        /// How many it returned.
        returned: usize,
        /// The output that is missing.
        wanted: u32,
    },
    /// Its cache map does not fit its inputs.
    #[error("the cache map has {found} inputs, the vertex {expected}")]
    CacheMap {
        /// Inputs of the map.
        found: usize,
        /// Inputs of the vertex.
        expected: usize,
    },
    /// It panicked.
    #[error("the operation panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
}

impl Blame for SeamError {
    fn fault(&self) -> Fault {
        Fault::Bug
    }
}

/// The first wait for what another process is at; each further one takes twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(1);

/// The longest wait: nobody tells when the other process is done, so it has to be looked at.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// What a run needs before it starts.
struct Admission {
    permit: Option<OwnedSemaphorePermit>,
    /// Held until the results are stored.
    lock: Option<RunLock>,
}

/// One run, with all that it uses.
#[derive(Debug)]
pub(super) struct Work<T: Clone> {
    pub operation: Arc<dyn Operation<T>>,
    pub context: Context,
    pub request: RunRequest<T>,
    /// Contents of inputs that were asked for here.
    pub contents: Vec<(usize, ContentDigest)>,
    pub flights: Arc<Flights<T>>,
    pub solve: u64,
    pub cache: Cache,
    pub results: Arc<dyn Results<T>>,
    pub permits: Arc<Semaphore>,
    pub locks: Arc<dyn RunLocks>,
    pub clock: Arc<dyn Clock>,
}

impl<T: Clone + Send + Sync + 'static> Work<T> {
    /// Runs the vertex or waits for an equal run; `started` is called if it runs here.
    pub(super) async fn run(
        mut self,
        started: impl FnOnce() + Send,
    ) -> Result<Event<T>, OperationError> {
        if self.request.parts.contains(&None) {
            if let Some(first) = self.take_first().await? {
                let run = RunKey::first(self.request.digest);
                let admission = self.admit(run).await?;
                // Another process may have been first meanwhile.
                if !self.seen() {
                    return self.own_first(first, admission, started).await;
                }
            }
            let inputs = self.request.inputs.clone();
            self.ask_contents(&inputs).await?;
        }
        let key = RunKey::new(self.request.digest, &self.parts());
        if !self.operation.is_shared() {
            return self.own(key, None, started).await;
        }
        loop {
            match self.join(key) {
                Role::Owner(owner) => return self.own(key, Some(owner), started).await,
                Role::Waiter(waiter) => match self.landing(waiter).await? {
                    Some(Ok(values)) => {
                        let results = values.iter().map(|_| None);
                        self.record(results, Vec::new(), false);
                        return self.event(values, None, true);
                    }
                    Some(Err(failure)) => return Err(failure.into()),
                    None => {}
                },
            }
        }
    }

    /// Becomes the first to run an op that no record knows, unless somebody was before.
    async fn take_first(&self) -> Result<Option<Owner<T>>, OperationError> {
        loop {
            match self.join(RunKey::first(self.request.digest)) {
                Role::Owner(first) => return Ok((!self.seen()).then_some(first)),
                // The values are none of ours: the inputs may have other content. If there are
                // none, the owner was cancelled, and somebody else has to be the first.
                Role::Waiter(waiter) => {
                    if self.landing(waiter).await?.is_some() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn join(&self, run: RunKey) -> Role<T> {
        self.flights.join(FlightKey {
            run,
            solve: self.request.forced.then_some(self.solve),
        })
    }

    async fn landing(&self, waiter: Waiter<T>) -> Result<Option<Landing<T>>, OperationError> {
        tokio::select! {
            biased;
            () = self.context.cancel.cancelled() => Err(OperationError::Cancelled),
            landing = waiter.landing() => Ok(landing),
        }
    }

    /// Whether a record knows the op by now.
    fn seen(&self) -> bool {
        let request = &self.request;
        !request.forced
            && self.cache.read(|lookup| {
                let inputs = (0_u32..).zip(&request.parts);
                let mut deferred = inputs.filter(|(_, part)| part.is_none());
                deferred.any(|(input, _)| {
                    let mut outputs = request.outputs.iter();
                    outputs.any(|&output| lookup.seen(request.digest, output, input))
                })
            })
    }

    /// Asks for the content of the inputs that it is not known of, and completes the key.
    async fn ask_contents(&mut self, inputs: &[T]) -> Result<(), OperationError> {
        for (at, value) in inputs.iter().enumerate() {
            if self.request.parts[at].is_some() {
                continue;
            }
            let digest = tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Err(OperationError::Cancelled),
                digest = self.operation.content_digest(at, value, &self.context) => digest?,
            };
            let part = InputPart::by_content(digest);
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            self.request.parts[at] = Some(part);
            self.request.dependencies.push((number, part.key, None));
            self.contents.push((at, digest));
        }
        Ok(())
    }

    /// All parts of the key, which is complete by now.
    fn parts(&self) -> Vec<InputPart> {
        self.request.parts.iter().flatten().copied().collect()
    }

    /// Runs an op that no record knows, and gives it its key afterwards.
    async fn own_first(
        &mut self,
        first: Owner<T>,
        admission: Admission,
        started: impl FnOnce() + Send,
    ) -> Result<Event<T>, OperationError> {
        let ran = self.run_first(admission, started).await;
        let cancelled = match &ran {
            Ok(_) => false,
            Err(OperationError::Cancelled) => true,
            Err(OperationError::Failed(_)) => self.context.cancel.is_cancelled(),
        };
        if !cancelled {
            first.land(Ok(Vec::new()));
        }
        let (values, changes) = ran?;
        self.event(values, changes, false)
    }

    async fn run_first(
        &mut self,
        admission: Admission,
        started: impl FnOnce() + Send,
    ) -> Result<(Vec<T>, Option<ContentChanges>), OperationError> {
        let inputs = self.request.inputs.clone();
        let result = self.execute(admission.permit, started).await;
        // An input of which there is no content is told in the words that a later solve will use.
        self.ask_contents(&inputs).await?;
        let values = result?;
        let described = self.describe(&inputs).await;
        self.record(
            self.keep(&values),
            described.listings,
            admission.lock.is_some(),
        );
        drop(admission.lock);
        Ok((values, described.changes))
    }

    async fn own(
        &mut self,
        key: RunKey,
        owner: Option<Owner<T>>,
        started: impl FnOnce() + Send,
    ) -> Result<Event<T>, OperationError> {
        if let Some(values) = self.stored().await {
            return Ok(self.found(values));
        }
        let Admission { permit, lock } = self.admit(key).await?;
        if lock.is_some()
            && let Some(values) = self.stored().await
        {
            // Another process was faster.
            return Ok(self.found(values));
        }
        let inputs = match self.request.by_content.is_empty() {
            true => Vec::new(),
            false => self.request.inputs.clone(),
        };
        match self.execute(permit, started).await {
            Ok(values) => {
                let described = self.describe(&inputs).await;
                self.record(self.keep(&values), described.listings, lock.is_some());
                drop(lock);
                if let Some(owner) = owner.filter(|_| !self.context.is_confined()) {
                    owner.land(Ok(values.clone()));
                }
                self.event(values, described.changes, false)
            }
            // A failure after the cancellation may be its effect: the waiters try for themselves.
            Err(_) if self.context.cancel.is_cancelled() => Err(OperationError::Cancelled),
            Err(OperationError::Cancelled) => Err(OperationError::Cancelled),
            Err(OperationError::Failed(failure)) => {
                let personal = self.operation.is_personal() || failure.is_personal();
                if let Some(owner) = owner.filter(|_| !personal) {
                    owner.land(Err(failure.clone()));
                }
                Err(failure.into())
            }
        }
    }

    /// What somebody else stored.
    fn found(&mut self, values: Vec<Option<T>>) -> Event<T> {
        Event::Ran {
            vertex: self.request.vertex,
            values,
            contents: std::mem::take(&mut self.contents),
            changes: None,
            shared: true,
            confined: false,
        }
    }

    /// Waits for a permit and for the lock of the run, as far as it takes them. Whoever has the one
    /// never waits for the other: what another process is at is waited for without a permit.
    async fn admit(&self, run: RunKey) -> Result<Admission, OperationError> {
        let request = &self.request;
        let locked =
            self.operation.is_locked(&request.inputs) && !request.forced && !request.volatile;
        let mut wait = FIRST_WAIT;
        loop {
            let permit = self.permit().await?;
            let lock = if locked {
                self.locks.try_lock(run).unwrap_or_else(|failure| {
                    let reason = failure.chain();
                    let text = format!("other processes may do the same work: {reason}");
                    self.context.reporter.warn(text);
                    Some(Box::new(()))
                })
            } else {
                None
            };
            if lock.is_some() || !locked {
                return Ok(Admission { permit, lock });
            }
            drop(permit);
            tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Err(OperationError::Cancelled),
                () = sleep(wait) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, OperationError> {
        if !self.operation.takes_permit() {
            return Ok(None);
        }
        let permits = Arc::clone(&self.permits);
        tokio::select! {
            biased;
            () = self.context.cancel.cancelled() => Err(OperationError::Cancelled),
            permit = permits.acquire_owned() => Ok(permit.ok()),
        }
    }

    /// Runs the operation.
    async fn execute(
        &mut self,
        permit: Option<OwnedSemaphorePermit>,
        started: impl FnOnce() + Send,
    ) -> Result<Vec<T>, OperationError> {
        started();
        let inputs = std::mem::take(&mut self.request.inputs);
        let result = self.operation.run(inputs, &self.context).await;
        drop(permit);
        result
    }

    fn event(
        &mut self,
        values: Vec<T>,
        changes: Option<ContentChanges>,
        shared: bool,
    ) -> Result<Event<T>, OperationError> {
        let request = &self.request;
        let mut of_edges = Vec::with_capacity(request.outputs.len());
        for (&output, &wanted) in request.outputs.iter().zip(&request.wanted) {
            let value = usize::try_from(output)
                .ok()
                .and_then(|at| values.get(at))
                .cloned();
            if wanted && value.is_none() {
                let error = SeamError::Outputs {
                    returned: values.len(),
                    wanted: output,
                };
                return Err(Failure::new(error).into());
            }
            of_edges.push(value);
        }
        Ok(Event::Ran {
            vertex: request.vertex,
            values: of_edges,
            contents: std::mem::take(&mut self.contents),
            changes,
            shared,
            confined: self.context.is_confined(),
        })
    }

    /// Summarises the content of inputs that nobody summarised before, and tells how the one that
    /// made the vertex run differs.
    async fn describe(&self, inputs: &[T]) -> Described {
        let mut described = Described::default();
        if !self.may_store() {
            return described;
        }
        let request = &self.request;
        for &input in &request.by_content {
            let (Some(value), Some(Some(part))) = (inputs.get(input), request.parts.get(input))
            else {
                continue;
            };
            let asked = request.changed.filter(|(changed, _)| *changed == input);
            let (known, old) = self.cache.read(|lookup| {
                let known = lookup.listing(part.key).is_some();
                (known, asked.and_then(|(_, old)| lookup.listing(old)))
            });
            if known && old.is_none() {
                continue;
            }
            let told = self
                .operation
                .describe_content(input, value, old.as_ref(), &self.context);
            // What cannot be told costs an explanation, not the solve.
            if let Ok(Some(told)) = told.await {
                described.listings.push((part.key, told.listing.encode()));
                described.changes = described.changes.or(told.changes);
            }
        }
        described
    }

    fn may_store(&self) -> bool {
        !self.request.volatile && !self.context.is_confined()
    }

    /// The wanted values, if somebody stored them since the vertex was looked up.
    async fn stored(&self) -> Option<Vec<Option<T>>> {
        let request = &self.request;
        if request.forced || request.volatile {
            return None;
        }
        let parts = self.parts();
        let rows: Vec<_> = self.cache.read(|lookup| {
            let newest = |output: &u32| {
                let key = CacheKey::derive(request.digest, *output, &parts);
                lookup
                    .results(key)
                    .into_iter()
                    .find_map(|known| match known.source {
                        ResultSource::Stored(result) => Some(result),
                        ResultSource::Imported { .. } => None,
                    })
            };
            request.outputs.iter().map(newest).collect()
        });
        let mut values = Vec::with_capacity(rows.len());
        for (row, &wanted) in rows.into_iter().zip(&request.wanted) {
            values.push(match row {
                Some(result) if wanted => Some(self.results.load(result).await.ok()??),
                None if wanted => return None,
                _ => None,
            });
        }
        Some(values)
    }

    /// The values as they are stored, one per output; none of those that cannot be kept.
    fn keep(&self, values: &[T]) -> impl Iterator<Item = Option<Box<dyn NewResult>>> {
        values.iter().map(|value| self.results.keep(value))
    }

    /// Stores the links from all keys of the inputs, and the results. If the run is `locked`,
    /// another process may wait for them: they are stored at once.
    fn record(
        &self,
        results: impl Iterator<Item = Option<Box<dyn NewResult>>>,
        listings: Vec<(CacheKey, Vec<u8>)>,
        locked: bool,
    ) {
        if !self.may_store() {
            return;
        }
        let request = &self.request;
        let mut new = NewRecords::from(RecordBatch {
            created_at: milliseconds(&*self.clock),
            listings,
            ..RecordBatch::default()
        });
        let parts = self.parts();
        for (output, result) in (0_u32..).zip(results) {
            let key = CacheKey::derive(request.digest, output, &parts);
            let link = |&(input, dependency, selector)| {
                (
                    Link {
                        digest: request.digest,
                        output,
                        input,
                        dependency,
                        selector,
                    },
                    key,
                )
            };
            new.batch
                .links
                .extend(request.dependencies.iter().map(link));
            let Some(result) = result else { continue };
            let further = request.digests.iter();
            let further = further.map(|&digest| CacheKey::root(digest, output));
            let mut keys = vec![key];
            keys.extend(further.filter(|other| *other != key));
            new.results.push((result, keys));
        }
        if new.is_empty() {
            return;
        }
        let stored = match locked {
            true => self.cache.save(new),
            false => self.cache.defer(new),
        };
        if let Err(error) = stored {
            let failure = Failure::new(error);
            self.context.reporter.warn(format!(
                "the cache record is not stored: {}",
                failure.chain()
            ));
        }
    }
}

/// What is remembered of the content of inputs.
#[derive(Debug, Default)]
struct Described {
    listings: Vec<(CacheKey, Vec<u8>)>,
    changes: Option<ContentChanges>,
}

/// The time of day in milliseconds since 1970.
pub(super) fn milliseconds(clock: &dyn Clock) -> i64 {
    let since = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
