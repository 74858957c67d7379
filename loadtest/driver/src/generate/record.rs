//! The fields around a message, as Vector's `kubernetes_logs` source and the collector's remap add them.

use std::io::{self, Write};

use jiff::Timestamp;

/// Names of the same length, so that the size of a record does not depend on the seed.
const APPLICATIONS: &[&str] =
    &["payment-api", "order-queue", "user-search", "quota-guard", "lease-watch", "mail-sender"];

/// One pod, with its fields as JSON text.
pub(super) struct Pod {
    before_message: String,
    after_message: [String; 2],
}

impl Pod {
    /// Generates an application and `count` pods of it on one node, as one collector sees them.
    pub(super) fn replicas(rng: &mut fastrand::Rng, count: u32) -> Vec<Self> {
        let application = APPLICATIONS[rng.usize(..APPLICATIONS.len())];
        let template = format!("{:010x}", rng.u64(..1 << 40));
        let image = digest(rng);
        let node = format!("ip-10-0-{}-{}.ec2.internal", rng.u8(1..), rng.u8(1..));
        (0..count).map(|_| Self::new(rng, application, &template, &image, &node)).collect()
    }

    fn new(rng: &mut fastrand::Rng, application: &str, template: &str, image: &str, node: &str) -> Self {
        let pod = format!("{application}-{template}-{:05x}", rng.u32(..1 << 20));
        let [container, sandbox] = [(); 2].map(|()| digest(rng));
        let (ip_a, ip_b) = (rng.u8(..), rng.u8(1..));
        let uid = uuid(rng);
        let before_message = format!(
            concat!(
                r#"{{"application":"{application}","cluster_id":"prod-cluster-1","customer_id":"acme-corp","#,
                r#""file":"/var/log/pods/{application}_{pod}/0.log","kubernetes":{{"#,
                r#""container_id":"containerd://{container}","container_image":"registry.example/app:1.4.2","#,
                r#""container_image_id":"registry.example/app@sha256:{image}","container_name":"{application}","#,
                r#""namespace_labels":{{"kubernetes.io/metadata.name":"{application}"}},"#,
                r#""pod_annotations":{{"cni.projectcalico.org/containerID":"{sandbox}"}},"#,
                r#""pod_ip":"10.128.{ip_a}.{ip_b}","pod_ips":["10.128.{ip_a}.{ip_b}"],"#,
                r#""pod_labels":{{"app":"{application}","pod-template-hash":"{template}"}},"#,
                r#""pod_name":"{pod}","pod_namespace":"{application}","pod_node_name":"{node}","#,
                r#""pod_owner":"ReplicaSet/{application}-{template}","pod_uid":"{uid}"}},"message":"#
            ),
            application = application,
            pod = pod,
            container = container,
            image = image,
            node = node,
            sandbox = sandbox,
            ip_a = ip_a,
            ip_b = ip_b,
            template = template,
            uid = uid,
        );
        let after = |stream| {
            format!(
                r#","pod_name":"{pod}","source_type":"kubernetes_logs","stream":"{stream}","timestamp":""#
            )
        };
        Self { before_message, after_message: [after("stdout"), after("stderr")] }
    }

    /// Appends one record. Keys are in alphabetical order, as Vector writes them.
    pub(super) fn record(
        &self,
        to: &mut Vec<u8>,
        message: &str,
        stderr: bool,
        at: Timestamp,
    ) -> io::Result<()> {
        to.extend_from_slice(self.before_message.as_bytes());
        serde_json::to_writer(&mut *to, message)?;
        to.extend_from_slice(self.after_message[usize::from(stderr)].as_bytes());
        write!(to, "{at:.9}\"}}")
    }
}

/// A random 256-bit digest or id.
fn digest(rng: &mut fastrand::Rng) -> String {
    format!("{:032x}{:032x}", rng.u128(..), rng.u128(..))
}

pub(super) fn uuid(rng: &mut fastrand::Rng) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        rng.u32(..),
        rng.u16(..),
        rng.u16(..4096),
        rng.u16(..4096),
        rng.u64(..1 << 48)
    )
}
