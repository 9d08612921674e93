//! The sandboxes are as poor as they claim: otherwise a test in them proves nothing.

use std::time::Duration;

use crate::support::{Lab, run};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn nobody_has_no_capability_no_privilege_to_gain_and_no_tun_device() {
    let Some(lab) = Lab::build("nobody", &[]) else { return };
    let status = run(lab.nobody("cat").arg("/proc/self/status"), LIMIT).expect(0).text();
    for line in
        ["Uid:\t65534\t65534", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    run(lab.nobody("ls").arg("/dev/net/tun"), LIMIT).expect(2);
    assert_eq!(
        run(lab.nobody("cat").arg("/etc/resolv.conf"), LIMIT).expect(0).text(),
        "nameserver 192.0.2.53"
    );
    let private = run(lab.nobody("curl").args(["-s", "--max-time", "1", "http://10.77.0.10/peer"]), LIMIT);
    assert_ne!(private.status.code(), Some(0), "{private}");
}

#[test]
fn a_container_has_dockers_profile_and_capabilities() {
    let Some(lab) = Lab::build("container", &[]) else { return };
    for (uid, effective) in [(0, "CapEff:\t00000000a80425fb"), (1000, "CapEff:\t0000000000000000")] {
        let Some(container) = lab.container("container", uid) else { return };
        let status = container.run(&["cat", "/proc/self/status"], &[], LIMIT).expect(0).text();
        for line in [effective, "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line} is not in\n{status}");
        }
        // The profile denies new namespaces, whatever the capabilities.
        let unshare = container.run(&["unshare", "--user", "true"], &[], LIMIT);
        assert!(unshare.stderr.contains("Operation not permitted"), "{unshare}");
        let public = container.run(&["curl", "-sf", "http://www.example.test/peer"], &[], LIMIT).expect(0);
        assert_eq!(public.text(), "192.0.2.2");
        container.run(&["ls", "/dev/net/tun"], &[], LIMIT).expect(2);
    }
}
