//! Ports that show what would be delivered, and deliver nothing.
//!
//! Each event is one line of JSON with `batch`, `group`, `stream`, `timestamp` (milliseconds since 1970) and `message`. The
//! lines of a batch follow each other. A copy into a customer's bucket, or a file of a lake, is one line with `bucket`, `key` and
//! `source`.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    copy::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier},
    event::ObjectRef,
    lake::{FileSpec, LakeAccount, LakeStore, LakeWay, Part, Upload},
    ledger::lease::Lease,
    sink::{
        LogSink, LogSinks, PutAnswer, SinkError,
        request::{Request, RequestEvent},
    },
    tenant::{Attribute, CloudWatch, Delivery, Directory, LookupError, Row, Tenant},
};

/// Where the lines go. Clones share it.
#[derive(Clone)]
pub struct Lines {
    out: Arc<Mutex<dyn Write + Send>>,
    /// Number of batches so far.
    batches: Arc<AtomicU64>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl Lines {
    /// Writes to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Arc::new(Mutex::new(out)), batches: Arc::default() }
    }

    fn write(&self, lines: &[u8]) -> std::io::Result<()> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(lines)
    }

    fn show(&self, line: &CopyLine<'_>) -> Result<(), CopyError> {
        let unwritten = |error| CopyError::Unavailable(format!("the line cannot be written: {error}"));
        let mut line = serde_json::to_vec(line).expect("memory takes every byte");
        line.push(b'\n');
        self.write(&line).map_err(unwritten)
    }
}

#[derive(Serialize)]
struct EventLine<'a> {
    batch: u64,
    group: &'a RawValue,
    stream: &'a RawValue,
    timestamp: i64,
    message: &'a RawValue,
}

#[derive(Serialize)]
struct CopyLine<'a> {
    bucket: &'a str,
    key: &'a str,
    source: &'a str,
}

impl LogSinks for Lines {
    type Sink = Self;

    async fn closed(&self, _: &Delivery, _: &CloudWatch, _cluster: &str) -> Option<SinkError> {
        None
    }

    async fn open(
        &self,
        _: &Delivery,
        _: &CloudWatch,
        _cluster: &str,
        _: &ObjectRef,
    ) -> Result<Self, SinkError> {
        Ok(self.clone())
    }
}

impl LogSink for Lines {
    async fn put_log_events(&self, body: Bytes, _: &Lease) -> Result<PutAnswer, SinkError> {
        let batch = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let request = Request::read(&body);
        let mut lines = Vec::with_capacity(body.len() * 2);
        for RequestEvent { timestamp, message } in request.log_events {
            let (group, stream) = (request.log_group_name, request.log_stream_name);
            let line = EventLine { batch, group, stream, timestamp, message };
            serde_json::to_writer(&mut lines, &line).expect("memory takes every byte");
            lines.push(b'\n');
        }
        let unwritten = |error| SinkError::Unavailable(format!("the lines cannot be written: {error}"));
        self.write(&lines).map_err(unwritten)?;
        Ok(PutAnswer::default())
    }

    async fn create_log_stream(&self, _group: &str, _stream: &str, _: &Lease) -> Result<(), SinkError> {
        Ok(())
    }

    async fn create_log_group(&self, _group: &str, _days: Option<i32>, _: &Lease) -> Result<(), SinkError> {
        Ok(())
    }
}

impl ObjectCopier for Lines {
    type Session = ();

    async fn closed(&self, _: &CopyWay<'_>) -> Option<CopyError> {
        None
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<(), CopyError> {
        way.key().map(drop)
    }

    async fn copy(&self, _session: &(), job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        let way = job.way;
        let source = format!("s3://{}/{}", way.object.bucket, way.object.key);
        self.show(&CopyLine { bucket: &way.destination.bucket_name, key: &way.key()?, source: &source })?;
        Ok(Copied::Written)
    }
}

/// Shows the files of a lake, without their contents: one line for each.
impl LakeStore for Lines {
    type Account = LakeLines;

    async fn lake_closed(&self, _: &LakeWay<'_>) -> Option<CopyError> {
        None
    }

    async fn enter_lake(&self, way: &LakeWay<'_>) -> Result<LakeLines, CopyError> {
        let source = format!("s3://{}/{}", way.object.bucket, way.object.key);
        Ok(LakeLines { lines: self.clone(), bucket: way.destination.bucket_name.clone(), source })
    }
}

/// The lines of one object's files.
#[derive(Debug)]
pub struct LakeLines {
    lines: Lines,
    bucket: String,
    source: String,
}

impl LakeLines {
    fn show(&self, key: &str) -> Result<(), CopyError> {
        self.lines.show(&CopyLine { bucket: &self.bucket, key, source: &self.source })
    }
}

impl LakeAccount for LakeLines {
    async fn put(&self, file: &FileSpec, _: Bytes) -> Result<(), CopyError> {
        self.show(&file.key)
    }

    async fn begin(&self, _: &FileSpec) -> Result<String, CopyError> {
        Ok(String::new())
    }

    async fn part(&self, _: &Upload, number: i32, _: Bytes) -> Result<Part, CopyError> {
        Ok(Part { number, etag: None })
    }

    async fn complete(&self, upload: &Upload, _: Vec<Part>) -> Result<(), CopyError> {
        self.show(&upload.key)
    }

    async fn abort(&self, _: &Upload) {}
}

/// Tenants without the tenant table: those of given rows, or if there are none, any tenant with a stand-in row.
#[derive(Clone, Debug)]
pub struct GivenTenants {
    /// Tenant, `type` and attributes of each row.
    pub rows: Vec<(String, String, Row)>,
    /// `tenants.default_region`.
    pub default_region: Option<String>,
}

/// The log group of the stand-in row.
pub const STAND_IN_GROUP: &str = "dry-run";

impl Directory for GivenTenants {
    async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        let rows = match self.rows.is_empty() {
            true => vec![("cloudwatch".to_owned(), stand_in())],
            false => {
                let of_tenant = self.rows.iter().filter(|(tenant, ..)| tenant == tenant_id);
                of_tenant.map(|(_, name, row)| (name.clone(), row.clone())).collect()
            }
        };
        let region = self.default_region.as_deref();
        Ok(Tenant::from_rows(tenant_id, rows, region, Timestamp::now()).map(Arc::new))
    }
}

/// A row with the default stream, which wants every application.
fn stand_in() -> Row {
    let text = |value: &str| Attribute::Text(value.to_owned());
    Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text("us-east-1")),
        ("log_distribution_role_arn".to_owned(), text("arn:aws:iam::000000000000:role/dry-run")),
        ("log_group_name".to_owned(), text(STAND_IN_GROUP)),
    ])
}
