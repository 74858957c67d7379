//! stub
#[derive(Debug)]
pub(super) struct NdjsonWriter;
impl NdjsonWriter {
    pub(super) fn new(_: crate::tenant::Fields) -> Self {
        Self
    }
    pub(super) fn empty() -> Self {
        Self
    }
    pub(super) fn push(&mut self, _: &[u8]) {}
    pub(super) fn encoded(&self) -> usize {
        0
    }
    pub(super) fn take_encoded(&mut self) -> Vec<u8> {
        Vec::new()
    }
    pub(super) fn finish(self) -> Vec<u8> {
        Vec::new()
    }
}
