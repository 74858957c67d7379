//! The properties for the fuzz targets. `cargo test` includes the same sources.

#[path = "../../tests/it/fuzz/batch.rs"]
mod batch;
#[path = "../../tests/it/fuzz/choices.rs"]
mod choices;
#[path = "../../tests/it/fuzz/decode.rs"]
mod decode;
#[path = "../../tests/it/fuzz/event.rs"]
mod event;
#[path = "../../tests/it/fuzz/formats.rs"]
mod formats;
#[path = "../../tests/it/fuzz/lake.rs"]
mod lake;
#[path = "../../tests/it/fuzz/records.rs"]
mod records;
#[path = "../../tests/it/fuzz/route.rs"]
mod route;

/// Checks the body of a message: see [`logferry::event`].
pub fn event(data: &[u8]) {
    event::check(data);
}

/// Checks a key, a layout and a template of names: see [`logferry::route`] and [`logferry::name`].
pub fn route(data: &[u8]) {
    route::check(data);
}

/// Checks an object as stored: see [`logferry::decode`].
pub fn decode(data: &[u8]) {
    decode::check(data);
}

/// Checks the text of an object: see [`logferry::records`] and [`logferry::lake`].
pub fn records(data: &[u8]) {
    records::check(data);
}

/// Checks the text of an object of any format: see [`logferry::records::RecordFormat`].
pub fn formats(data: &[u8]) {
    formats::check(data);
}

/// Checks the batching of events into requests: see [`logferry::batch`].
pub fn batch(data: &[u8]) {
    batch::check(data);
}
