//! stub
use crate::{records::Record, route::Route};
use jiff::Timestamp;
use std::borrow::Cow;
#[derive(Debug)]
pub(super) struct RecordFields;
pub(super) struct LakeRecord<'a> {
    pub timestamp: i64,
    pub message: Cow<'a, str>,
    pub stream: Option<Cow<'a, str>>,
    pub namespace: Option<Cow<'a, str>>,
    pub container: Option<Cow<'a, str>>,
    pub node: Option<Cow<'a, str>>,
    pub level: Option<Cow<'a, str>>,
    pub rest: Option<Cow<'a, str>>,
}
pub(super) struct Fields<'a> {
    pub record: LakeRecord<'a>,
    pub undated: bool,
    pub mended: bool,
    pub text: Cow<'a, [u8]>,
}
impl RecordFields {
    pub(super) fn new(_: &Route, _: Timestamp) -> Self {
        Self
    }
    pub(super) fn read<'a>(&mut self, _: &'a Record<'_>) -> Fields<'a> {
        todo!()
    }
}
