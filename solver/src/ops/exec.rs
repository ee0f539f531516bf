//! x
#![allow(missing_docs, reason="x")]
#[derive(Debug)]
pub struct ExecOperation;
impl ExecOperation {
    pub fn new(_: &ashlar_llb::pb::ExecOp, _: &ashlar_llb::pb::Platform, _: usize, _: &str, _: &std::sync::Arc<super::Engine>) -> Result<Self, crate::error::OperationError> { Ok(Self) }
}
#[async_trait::async_trait]
impl super::Operation<super::Ref> for ExecOperation {
    async fn cache_map(&self, _: &crate::operation::Context) -> Result<crate::operation::CacheMap, super::OperationError> { unimplemented!() }
    async fn content_digest(&self, _: usize, _: &super::Ref, _: &crate::operation::Context) -> Result<crate::id::ContentDigest, super::OperationError> { unimplemented!() }
    async fn run(&self, _: Vec<super::Ref>, _: &crate::operation::Context) -> Result<Vec<super::Ref>, super::OperationError> { unimplemented!() }
}
