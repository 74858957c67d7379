//! The properties that `cargo test` replays, for the fuzz targets: one text for both.

#[path = "../../tests/it/fuzz/batch.rs"]
mod batch;
#[path = "../../tests/it/fuzz/choices.rs"]
mod choices;
#[path = "../../tests/it/fuzz/decode.rs"]
mod decode;
#[path = "../../tests/it/fuzz/event.rs"]
mod event;
#[path = "../../tests/it/fuzz/records.rs"]
mod records;
#[path = "../../tests/it/fuzz/route.rs"]
mod route;

/// A message's body: see [`logferry::event`].
pub fn event(data: &[u8]) {
    event::check(data);
}

/// An object's key, a layout and a name's template: see [`logferry::route`] and [`logferry::name`].
pub fn route(data: &[u8]) {
    route::check(data);
}

/// An object as it is stored: see [`logferry::decode`].
pub fn decode(data: &[u8]) {
    decode::check(data);
}

/// An object's text: see [`logferry::records`].
pub fn records(data: &[u8]) {
    records::check(data);
}

/// Events on their way into requests: see [`logferry::batch`].
pub fn batch(data: &[u8]) {
    batch::check(data);
}
