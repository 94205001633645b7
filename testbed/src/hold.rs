//! `weft-hold ADDRESS`: takes as many connections as come, holds them, and answers each byte with its complement. A
//! process of its own, so that a test has all its file descriptors for the other ends.

use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use weft_testbed::lab::say;

fn main() -> ExitCode {
    weft_control::holder::raise_fd_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let address = std::env::args().nth(1).unwrap_or_default();
    let served = runtime.and_then(|runtime| runtime.block_on(serve(&address)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("weft-hold {address}: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    say("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

/// Until the client has finished, or is gone.
async fn answer(mut stream: TcpStream) {
    while let Ok(byte) = stream.read_u8().await {
        if stream.write_u8(!byte).await.is_err() {
            return;
        }
    }
}
