//! `adit exec` in a container as Docker makes one by default: backend B carries it.

use std::time::Duration;

use crate::support::{Lab, Part, in_container};

const LIMIT: Duration = Duration::from_secs(60);

fn main_job(uid: u32, test: &str) {
    let Some(lab) = Lab::build(test, &[Part::Postgres, Part::Names]) else { return };
    let Some(container) = lab.container(test, uid) else { return };
    let conf = lab.write("lab.conf", lab.conf());
    in_container(&conf, uid);
    let (adit, conf) = (lab.binary(), conf);
    let exec = |program: &[&str]| {
        let (adit, conf) = (adit.to_string_lossy(), conf.to_string_lossy());
        let mut arguments = vec![&*adit, "exec", "--config", &conf];
        arguments.extend(["--target", "tcp://staging-db.internal:5432,postgres", "--"]);
        arguments.extend(program);
        container.run(&arguments, &[("PGUSER", "nobody")], LIMIT)
    };
    let psql = exec(&["psql", "-h", "staging-db.internal", "-Atc", "select count(*) from orders"]).expect(0);
    assert_eq!(psql.text(), "3", "{psql}");
    let sum = exec(&["sh", "-c", "curl -sf http://files.corp.internal/blob | sha256sum"]).expect(0);
    let expected = run_sha256(&crate::support::blob());
    assert_eq!(sum.text().split(' ').next(), Some(expected.as_str()), "{sum}");
    let udp = "exec 3<>/dev/udp/files.corp.internal/7; echo hello >&3; head -n1 <&3";
    assert_eq!(exec(&["bash", "-c", udp]).expect(0).text(), "hello");
    let refused = exec(&["bash", "-c", "exec 3<>/dev/tcp/10.77.0.10/81"]).expect(1);
    assert!(refused.stderr.contains("Connection refused"), "{refused}");
}

fn run_sha256(bytes: &[u8]) -> String {
    let mut command = std::process::Command::new("sha256sum");
    let outcome = crate::support::run_with_input(&mut command, bytes, LIMIT).expect(0);
    outcome.text().split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn root_in_a_container_does_the_main_job() {
    main_job(0, "container_root");
}

#[test]
fn a_plain_user_in_a_container_does_the_main_job() {
    main_job(1000, "container_user");
}
