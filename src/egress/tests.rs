use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn client(allow: &[&str]) -> Client {
    let allow = allow.iter().map(|target| target.parse().unwrap()).collect();
    Client::new(Settings { allow, ..Settings::default() })
}

fn refused_by_url(client: &Client, url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return true };
    Target::of(&url).and_then(|target| client.pool(&url, &target).map(drop)).is_err()
}

#[test]
fn no_spelling_of_a_private_host_gets_past_the_url_check() {
    let client = client(&[]);
    for url in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://127.0.0.1./",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://localhost/",
        "http://LocalHost./",
        "http://x.localhost/",
        "http://metadata.google.internal/",
        "http://metadata/",
        "http://user@169.254.169.254/",
        "http://example.com@169.254.169.254/",
        "http:\\\\169.254.169.254\\",
        "http:169.254.169.254",
        "http://168.63.129.16/",
        "http://%6c%6fcalhost/",
        "http://ⓛocalhost/",
        "http://example.com:22/",
        "http://example.com:11434/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:,x",
        "http://user@example.com/",
    ] {
        assert!(refused_by_url(&client, url), "{url}");
    }
    // A backslash ends the host for this parser, and the same parser's host is what gets connected.
    for url in [
        "https://api.openai.com/v1",
        "http://example.com\\@169.254.169.254/",
        "https://[2606:4700::1111]/",
        "https://8.8.8.8/",
    ] {
        assert!(!refused_by_url(&client, url), "{url}");
    }
}

#[test]
fn an_allowed_target_is_allowed_on_that_port_alone() {
    let client = client(&["127.0.0.1:11434", "LOCALHOST:8000", "[::1]:9000", "models.example.com:8443"]);
    for url in [
        "http://127.0.0.1:11434/v1",
        "http://127.1:11434/",
        "http://localhost:8000/",
        "http://localhost.:8000/",
        "http://[::1]:9000/",
        "https://models.example.com:8443/",
    ] {
        assert!(!refused_by_url(&client, url), "{url}");
    }
    for url in [
        "http://127.0.0.1:11435/",
        "http://127.0.0.1/",
        "http://localhost:22/",
        "http://[::1]:9001/",
        "http://127.0.0.2:11434/",
        "https://models.example.com:22/",
    ] {
        assert!(refused_by_url(&client, url), "{url}");
    }
}

/// A listed port passed the check of a project and was refused when it was called.
#[test]
fn a_listed_port_is_called_and_a_private_host_stays_one() {
    let listed =
        ["shop.example.com:8443", "localhost:8080", "10.0.0.1:8080"].map(|text| text.parse().unwrap());
    let client = client(&["localhost:9000"]).listing(listed);
    assert!(!refused_by_url(&client, "https://shop.example.com:8443/"));
    let url = Url::parse("https://shop.example.com:8443/").unwrap();
    let pool = client.pool(&url, &Target::of(&url).unwrap()).unwrap();
    assert!(std::ptr::eq(pool, &raw const *client.pools.guarded().unwrap()), "its addresses are checked");
    assert!(!refused_by_url(&client, "http://localhost:9000/"), "the operator allows it");
    for url in ["https://shop.example.com:8444/", "http://localhost:8080/", "http://10.0.0.1:8080/"] {
        assert!(refused_by_url(&client, url), "{url}");
    }
}

#[test]
fn a_host_without_a_port_is_read_in_every_spelling() {
    for (host, printed) in [
        ("KB.example.com.", "kb.example.com:443"),
        ("::1", "[::1]:443"),
        ("[::1]", "[::1]:443"),
        ("127.1", "127.0.0.1:443"),
    ] {
        assert_eq!(Target::on_port(host, 443).unwrap().to_string(), printed);
    }
    for bad in ["", "a:80", "1.2.3.4.5", "[::1", "a/b", "::1::"] {
        assert!(Target::on_port(bad, 443).is_err(), "{bad}");
    }
}

#[test]
fn a_target_reads_back_what_it_prints() {
    for (text, printed) in [
        ("Example.com:443", "example.com:443"),
        ("[::1]:80", "[::1]:80"),
        ("0x7f.1:65535", "127.0.0.1:65535"),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!(target.to_string(), printed);
        assert_eq!(printed.parse::<Target>().unwrap(), target);
    }
    for bad in
        ["", "example.com", ":80", "a:b", "a:70000", "http://a:80", "a@b:80", "a:80/x", "a:+80", "::1:80"]
    {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

#[test]
fn a_secret_and_a_client_print_no_secret() {
    assert!(!format!("{:?}", Secret::new("sk-123")).contains("123"));
    assert!(parse_url("https://user:pass@example.com/").is_err());
}

#[test]
fn a_header_value_with_a_line_break_is_refused() {
    for bad in ["a\r\nb", "a\nb", "a\0b", "ä", "\u{7f}"] {
        assert!(header_value("X", bad).is_err(), "{bad:?}");
    }
    assert!(header_value("X", "a b").is_ok());
}

/// Answers successive lookups with successive lists of addresses; the last one repeats.
fn lookup(answers: Vec<Vec<&'static str>>) -> (guard::Lookup, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let lookup: guard::Lookup = Arc::new(move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let found = answers[call].iter().map(|a| a.parse().unwrap()).collect();
        Box::pin(async move { Ok(found) })
    });
    (lookup, calls)
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_never_connected() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    for answer in [vec!["127.0.0.1:0"], vec!["8.8.8.8:0", "127.0.0.1:0"], vec!["[::ffff:127.0.0.1]:0"]] {
        let (lookup, calls) = lookup(vec![answer]);
        let client = Client::with_lookup(Settings::default(), lookup);
        // Past the URL check on purpose: the port of the test server is not one that a URL may name.
        let url = format!("http://rebound.example.com:{port}/");
        let error = client.pools.guarded().unwrap().post(url).send().await.unwrap_err();
        assert_eq!(guard::refusal(&error), Some("loopback"));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
    let accepted = tokio::time::timeout(Duration::from_millis(20), server.accept()).await;
    assert!(accepted.is_err(), "nothing was connected");
}

#[tokio::test]
async fn a_refusal_by_the_resolver_is_told_apart_from_a_broken_connection() {
    let (lookup, _) = lookup(vec![vec!["10.0.0.1:0"]]);
    let client = Client::with_lookup(Settings::default(), lookup);
    let url = parse_url("https://rebound.example.com/x?key=secret").unwrap();
    let error = client.post_json(&url, HeaderMap::new(), Vec::new()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { what: "private", .. }), "{error:?}");
    let none = parse_url("http://127.0.0.1:1/x?key=secret").unwrap();
    let error =
        client.allowing(Target::of(&none).unwrap()).post_json(&none, HeaderMap::new(), Vec::new()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_redirect_of_a_post_is_an_answer_and_not_followed() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let client = client(&[&address.to_string()]);
    let url = parse_url(&format!("http://{address}/")).unwrap();
    let serve = async {
        let (mut socket, _) = server.accept().await.unwrap();
        let mut head = [0; 4096];
        let n = socket.read(&mut head).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 307 X\r\nlocation: /other\r\ncontent-length: 3\r\n\r\nabc")
            .await
            .unwrap();
        String::from_utf8(head[..n].to_vec()).unwrap()
    };
    let (response, head) = tokio::join!(client.post_json(&url, HeaderMap::new(), b"{}".to_vec()), serve);
    let response = response.unwrap();
    assert_eq!(response.status(), 307);
    assert!(head.contains(concat!("user-agent: graphloom/", env!("CARGO_PKG_VERSION"))), "{head}");
    assert_eq!(response.read_start(2).await, b"ab");
}
