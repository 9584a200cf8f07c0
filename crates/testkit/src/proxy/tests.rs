//! The proxy before a server that answers every line with its length, and counts them.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixListener},
    time::{Instant, timeout},
};

use super::*;
use crate::eventually;

const SHORT: Duration = Duration::from_millis(100);

/// A proxy before a server of lines, on a Unix socket. The count is of lines that arrived.
fn lines() -> (Proxy, Arc<AtomicU32>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    write.write_all(format!("{}\n", line.len()).as_bytes()).await.unwrap();
                }
            });
        }
    });
    let proxy = Proxy::before(&format!("redis+unix://{}", socket.display())).unwrap();
    (proxy, count, directory)
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn of(proxy: &Proxy) -> Client {
        Client(BufReader::new(TcpStream::connect(proxy.address()).await.unwrap()))
    }

    async fn ask(&mut self, line: &str) -> std::io::Result<String> {
        self.0.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        match self.0.read_line(&mut answer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}

#[tokio::test]
async fn what_passes_arrives_and_a_url_leads_through_the_proxy() {
    let (proxy, count, _directory) = lines();
    let mut client = Client::of(&proxy).await;
    assert_eq!(client.ask("four").await.unwrap(), "4");
    assert_eq!(client.ask("").await.unwrap(), "0");
    assert_eq!((count.load(Ordering::Relaxed), proxy.accepted(), proxy.open()), (2, 1, 1));
    assert_eq!(proxy.url(), format!("redis://{}", proxy.address()));
    drop(client);
    eventually(|| async { proxy.open() == 0 }).await;
}

#[tokio::test]
async fn a_proxy_that_refuses_cuts_what_is_there_and_closes_what_comes() {
    let (proxy, count, _directory) = lines();
    let mut client = Client::of(&proxy).await;
    client.ask("one").await.unwrap();
    proxy.refuse();
    eventually(|| async { proxy.open() == 0 }).await;
    assert!(client.ask("two").await.is_err());
    assert!(Client::of(&proxy).await.ask("three").await.is_err());
    proxy.pass();
    assert_eq!(Client::of(&proxy).await.ask("back").await.unwrap(), "4");
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_blackhole_holds_everything_until_it_passes() {
    let (proxy, count, _directory) = lines();
    let mut old = Client::of(&proxy).await;
    old.ask("one").await.unwrap();
    proxy.blackhole();
    let mut new = Client::of(&proxy).await;
    let (mut first, mut second) = (Box::pin(old.ask("old")), Box::pin(new.ask("newer")));
    assert!(timeout(SHORT, async { tokio::join!(&mut first, &mut second) }).await.is_err());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    proxy.pass();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("3".to_owned(), "5".to_owned()));
}

#[tokio::test]
async fn a_lost_reply_is_of_a_request_that_was_done() {
    let (proxy, count, _directory) = lines();
    let mut client = Client::of(&proxy).await;
    client.ask("one").await.unwrap();
    proxy.lose_replies(1);
    assert!(client.ask("two").await.is_err(), "the connection is cut after it");
    assert_eq!((count.load(Ordering::Relaxed), proxy.lost()), (2, 1));
    assert_eq!(Client::of(&proxy).await.ask("three").await.unwrap(), "5");
}

#[tokio::test]
async fn connections_are_cut_once_or_again_and_again() {
    let (proxy, _count, _directory) = lines();
    let mut client = Client::of(&proxy).await;
    client.ask("one").await.unwrap();
    proxy.cut();
    eventually(|| async { proxy.open() == 0 }).await;
    assert!(client.ask("two").await.is_err());
    proxy.cut_every(Duration::from_millis(20));
    for _ in 0..3 {
        let mut client = Client::of(&proxy).await;
        while client.ask("until it is cut").await.is_ok() {}
    }
    proxy.pass();
    let mut client = Client::of(&proxy).await;
    tokio::time::sleep(SHORT).await;
    assert_eq!(client.ask("stays").await.unwrap(), "5");
}

#[tokio::test]
async fn a_delay_is_waited_in_both_directions() {
    let (proxy, _count, _directory) = lines();
    let mut client = Client::of(&proxy).await;
    client.ask("warm").await.unwrap();
    proxy.delay(Duration::from_millis(30));
    let start = Instant::now();
    client.ask("slow").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_http_request_is_answered_without_its_server() {
    let (proxy, count, _directory) = lines();
    proxy.answer(500);
    let client = crate::process::client("").unwrap();
    for _ in 0..2 {
        let request = client.put(format!("http://{}/x", proxy.address())).body("a body");
        assert_eq!(request.send().await.unwrap().status(), 500);
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
}
