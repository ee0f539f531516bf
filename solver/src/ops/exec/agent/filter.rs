//! What a process may say to an agent.
//!
//! ```text
//! length (4 bytes, big endian)   kind (1 byte)   body (length - 1 bytes)
//! ```
//!
//! Requests to list keys and to sign go on to the agent, and its answers come back. Version 1 keys
//! are answered with none. Everything else (adding and removing keys, locking and unlocking, smart
//! cards, extensions) is answered with a failure and never reaches the agent. BuildKit allows the
//! same, and unlocking.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// The longest message, as in OpenSSH.
const MAX_MESSAGE: u32 = 256 << 10;

const FAILURE: u8 = 5;
const LIST_VERSION_1: u8 = 1;
const LIST: u8 = 11;
const SIGN: u8 = 13;

/// No keys of version 1.
const NO_VERSION_1: [u8; 9] = [0, 0, 0, 5, 2, 0, 0, 0, 0];
const FAILED: [u8; 5] = [0, 0, 0, 1, FAILURE];

/// Answers requests of `step` until it has no more.
///
/// # Errors
/// A side is gone, or does not keep to the protocol.
pub(super) async fn serve<S, A>(step: &mut S, agent: &mut A) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(request) = message(step).await? {
        match request.get(4) {
            Some(&(LIST | SIGN)) => {
                agent.write_all(&request).await?;
                let answer = message(agent).await?;
                let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
                step.write_all(&answer).await?;
            }
            Some(&LIST_VERSION_1) => step.write_all(&NO_VERSION_1).await?,
            _ => step.write_all(&FAILED).await?,
        }
    }
    Ok(())
}

/// Reads a message with its length; `None` at the end. What is signed may be secret.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let size = u32::from_be_bytes(length);
    if size == 0 || size > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut message = Zeroizing::new(vec![0; size + length.len()]);
    message[..length.len()].copy_from_slice(&length);
    from.read_exact(&mut message[length.len()..]).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 1).unwrap();
        [&length.to_be_bytes()[..], &[kind], body].concat()
    }

    /// What the step and the agent get to see of a conversation.
    async fn talk(requests: &[u8], answers: &[u8]) -> (Vec<u8>, Vec<u8>, io::Result<()>) {
        let (mut step, mut step_end) = tokio::io::duplex(1 << 20);
        let (mut agent, mut agent_end) = tokio::io::duplex(1 << 20);
        step_end.write_all(requests).await.unwrap();
        step_end.shutdown().await.unwrap();
        agent_end.write_all(answers).await.unwrap();
        let result = serve(&mut step, &mut agent).await;
        drop((step, agent));
        let (mut seen_by_step, mut seen_by_agent) = (Vec::new(), Vec::new());
        step_end.read_to_end(&mut seen_by_step).await.unwrap();
        agent_end.read_to_end(&mut seen_by_agent).await.unwrap();
        (seen_by_step, seen_by_agent, result)
    }

    #[tokio::test]
    async fn listing_and_signing_reach_the_agent_and_nothing_else_does() {
        for kind in 0..=u8::MAX {
            let request = framed(kind, b"body");
            let answer = framed(12, b"answer");
            let (step, agent, result) = talk(&request, &answer).await;
            result.unwrap();
            match kind {
                LIST | SIGN => assert_eq!((step, agent), (answer, request), "{kind}"),
                LIST_VERSION_1 => {
                    assert_eq!((&step[..], &agent[..]), (&NO_VERSION_1[..], &b""[..]));
                }
                _ => assert_eq!((&step[..], &agent[..]), (&FAILED[..], &b""[..]), "{kind}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_connection() {
        let too_long = (MAX_MESSAGE + 1).to_be_bytes();
        for bad in [&[0, 0, 0, 0][..], &too_long, &[255; 4], &[0, 0, 0, 9, 11]] {
            let (step, agent, result) = talk(bad, b"").await;
            assert!(result.is_err(), "{bad:?}");
            assert!(step.is_empty() && agent.is_empty(), "{bad:?}");
        }
        // An agent that answers too much is cut off as well.
        let (step, _, result) = talk(&framed(LIST, b""), &[127; 8]).await;
        assert!(result.is_err() && step.is_empty());
    }
}
