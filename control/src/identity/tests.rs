use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::ca::{Applicant, Authority};
use super::*;

fn issue(authority: &Authority, key: &NodeKey) -> Issued {
    let applicant = Applicant::from_csr(&key.csr().unwrap()).unwrap();
    assert_eq!(*applicant.node(), key.node_id());
    let cert = authority
        .sign_node(applicant, ("n1", ca::CERT_TTL))
        .unwrap();
    Issued {
        cert,
        cas: vec![authority.cert().clone()],
    }
}

fn saved(dir: &Path) -> Identity {
    let authority = Authority::mint().unwrap();
    let key = NodeKey::load_or_make(dir).unwrap();
    let identity = Identity::assemble(
        &key,
        issue(&authority, &key),
        vec!["10.0.0.1:6783".parse().unwrap()],
    );
    let identity = identity.unwrap();
    identity.save(dir).unwrap();
    identity
}

#[test]
fn an_identity_is_the_same_after_saving_and_its_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    assert!(Identity::load(&dir).unwrap().is_none());
    let identity = saved(&dir);
    let loaded = Identity::load(&dir).unwrap().unwrap();
    assert_eq!(loaded.cluster, identity.cluster);
    assert_eq!(loaded.node_id, identity.node_id);
    assert_eq!(
        (loaded.node_name.as_str(), &loaded.controllers),
        ("n1", &identity.controllers)
    );
    assert_eq!(
        (loaded.chain(), loaded.cas()),
        (identity.chain(), identity.cas())
    );
    assert_eq!(loaded.key(), identity.key());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in std::fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    assert!(!format!("{loaded:?}").contains("PRIVATE"));
}

#[test]
fn a_key_alone_is_no_identity_and_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = NodeKey::load_or_make(dir.path()).unwrap();
    assert!(Identity::load(dir.path()).unwrap().is_none());
    assert_eq!(
        NodeKey::load_or_make(dir.path()).unwrap().node_id(),
        first.node_id()
    );
}

#[test]
fn a_damaged_file_is_named_with_the_next_step() {
    for name in [KEY_FILE, CERT_FILE, CA_FILE, ABOUT_FILE] {
        for damage in ["", "rubbish"] {
            let dir = tempfile::tempdir().unwrap();
            saved(dir.path());
            std::fs::write(dir.path().join(name), damage).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("join again"),
                "{error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path());
        let path = dir.path().join(name);
        let half = std::fs::read(&path).unwrap();
        std::fs::write(&path, &half[..half.len() / 2]).unwrap();
        assert!(
            Identity::load(dir.path())
                .unwrap_err()
                .to_string()
                .contains(name)
        );
        std::fs::remove_file(&path).unwrap();
        match name {
            CERT_FILE => assert!(Identity::load(dir.path()).unwrap().is_none()),
            _ => assert!(
                Identity::load(dir.path())
                    .unwrap_err()
                    .to_string()
                    .contains("missing")
            ),
        }
    }
}

#[test]
fn files_of_two_identities_do_not_mix() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    saved(one.path());
    saved(other.path());
    for name in [KEY_FILE, CERT_FILE, ABOUT_FILE] {
        let dir = tempfile::tempdir().unwrap();
        for file in [KEY_FILE, CERT_FILE, CA_FILE, ABOUT_FILE] {
            let from = if file == name { &other } else { &one };
            std::fs::copy(from.path().join(file), dir.path().join(file)).unwrap();
        }
        assert!(
            matches!(
                Identity::load(dir.path()),
                Err(IdentityError::Corrupt { .. })
            ),
            "{name}"
        );
    }
}

#[test]
fn a_certificate_says_cluster_node_and_name() {
    let authority = Authority::mint().unwrap();
    let key = NodeKey::make().unwrap();
    let issued = issue(&authority, &key);
    let subject = cert::subject(&issued.cert).unwrap();
    assert_eq!(subject.cluster, *authority.cluster());
    assert_eq!((subject.node, subject.name.as_str()), (key.node_id(), "n1"));
    assert_eq!(key.node_id().0.len(), 32);
    assert!(
        cert::subject(authority.cert()).is_err(),
        "the authority is no node"
    );
    assert!(cert::subject(&CertificateDer::from(vec![1, 2, 3])).is_err());
    assert!(Applicant::from_csr(&[0x30, 0]).is_err());
}

#[test]
fn a_certificate_is_to_be_renewed_with_a_third_of_its_time_left() {
    let authority = Authority::mint().unwrap();
    let key = NodeKey::make().unwrap();
    let with_ttl = |secs| {
        let applicant = Applicant::from_csr(&key.csr().unwrap()).unwrap();
        let ttl = std::time::Duration::from_secs(secs);
        let cert = authority.sign_node(applicant, ("n1", ttl)).unwrap();
        assert_eq!(cert::issuer_id(&cert).unwrap(), authority.id());
        cert::validity(&cert).unwrap()
    };
    let month = with_ttl(30 * 86_400);
    assert!((31 * 86_400..=31 * 86_400 + 1).contains(&(month.until - month.from)));
    assert!((10 * 86_400..11 * 86_400).contains(&(month.until - month.renewal())));
    // What is there for clocks that differ is never most of it: a short one isn't due from the start.
    let short = with_ttl(12);
    assert!((24..=25).contains(&(short.until - short.from)));
    assert_eq!(short.until - short.renewal(), 8);
    let authority_lasts = cert::validity(authority.cert()).unwrap();
    assert!(authority_lasts.until > month.until + 19 * 365 * 86_400);
}

#[test]
fn a_renewed_identity_is_the_same_node_with_other_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let identity = saved(dir.path());
    let key = NodeKey::load(dir.path()).unwrap().unwrap();
    let next = Authority::mint_for(identity.cluster.clone()).unwrap();
    let mut issued = issue(&next, &key);
    issued.cas.push(identity.cas()[0].clone());
    let renewed = identity.renewed(issued).unwrap();
    renewed.save(dir.path()).unwrap();
    let loaded = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!(
        (loaded.chain(), loaded.cas()),
        (renewed.chain(), renewed.cas())
    );
    assert_eq!(loaded.cas().len(), 2);
    let credentials = loaded.credentials();
    assert_eq!(credentials.issuer, next.id());
    assert_eq!(credentials.trusts.len(), 2);
    // Of another node or cluster, or with nobody to trust: no.
    let stranger = NodeKey::make().unwrap();
    let foreign = Authority::mint().unwrap();
    let nobody = Issued {
        cas: Vec::new(),
        ..issue(&next, &key)
    };
    for bad in [issue(&next, &stranger), issue(&foreign, &key), nobody] {
        assert!(identity.renewed(bad).is_err());
    }
}

#[test]
fn an_authority_is_the_same_when_restored() {
    let authority = Authority::mint().unwrap();
    let cluster = authority.cluster().clone();
    let again = Authority::restore(cluster, authority.cert(), &authority.key_pem()).unwrap();
    let tag = |authority: &Authority| {
        aws_lc_rs::hmac::sign(&authority.derive(b"test"), b"")
            .as_ref()
            .to_vec()
    };
    assert_eq!(tag(&authority), tag(&again));
    let key = NodeKey::make().unwrap();
    assert_eq!(issue(&again, &key).cas, [authority.cert().clone()]);
    assert_eq!(again.id(), authority.id());
    let broken = Authority::restore(authority.cluster().clone(), b"", &authority.key_pem());
    assert!(broken.unwrap_err().contains("certificate"));
}

#[test]
fn a_token_survives_its_text_form_and_hides_its_secret() {
    let token = JoinToken::mint([7; 32]);
    let text = token.to_string();
    assert_eq!(text.parse(), Ok(token.clone()));
    assert_eq!(format!("  {text}\n").parse(), Ok(token.clone()));
    assert!(!format!("{token:?}").contains(&token.secret.reveal()));
    let cut = &text[..text.len() - 1];
    assert_eq!(cut.parse::<JoinToken>(), Err(TokenError::Broken("secret")));
    assert_eq!(
        "weft1.ab".parse::<JoinToken>(),
        Err(TokenError::Broken("fingerprint"))
    );
    assert_eq!(
        text.replace("weft1", "weft2")
            .parse::<JoinToken>()
            .unwrap_err(),
        TokenError::OtherKind("weft2".to_owned())
    );
    assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::NotAToken));
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_not(text in "(weft[0-9]*\\.)?[0-9a-f.]{0,140}|.{0,40}") {
        if let Ok(token) = text.parse::<JoinToken>() {
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }
    }
}
