//! The rendezvous of a generation, through the coordinator: no extra port, no store host to lose.

use std::time::Duration;

use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::exchange_request::Op;
use began_proto::v1::{
    ExchangeAdd, ExchangeAppend, ExchangeCompareSet, ExchangeDelete, ExchangeGet, ExchangePair, ExchangeRequest,
    ExchangeResponse, ExchangeSet,
};
use tokio::runtime::Handle;
use tonic::transport::Channel;
use torch_ext::gloo::Rendezvous;

/// How long the coordinator may take over a call that waits for nothing.
const ANSWER: Duration = Duration::from_secs(20);

/// The key-value store of one generation. Calls block; never call it from the session's own thread.
pub struct Exchange {
    client: CoordinatorClient<Channel>,
    handle: Handle,
    run: String,
    generation: u64,
    trainer: String,
}

impl Exchange {
    pub(crate) fn new(
        client: CoordinatorClient<Channel>,
        handle: Handle,
        run: String,
        generation: u64,
        trainer: String,
    ) -> Self {
        let client = client.max_decoding_message_size(began_proto::MAX_MESSAGE);
        Self { client, handle, run, generation, trainer }
    }

    fn call(&self, op: Op, patience: Duration) -> Result<ExchangeResponse, String> {
        let request = ExchangeRequest {
            run: self.run.clone(),
            generation: self.generation,
            trainer: self.trainer.clone(),
            op: Some(op),
        };
        let mut client = self.client.clone();
        let answered =
            self.handle.block_on(async move { tokio::time::timeout(patience, client.exchange(request)).await });
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(format!("the exchange answered {}: {}", status.code(), status.message())),
            Err(_) => Err(format!("the coordinator did not answer an exchange within {} s", patience.as_secs())),
        }
    }
}

impl Rendezvous for Exchange {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let pairs = vec![ExchangePair { key: key.into(), value: value.into() }];
        self.call(Op::Set(ExchangeSet { pairs }), ANSWER).map(drop)
    }

    fn get(&self, keys: &[&str], timeout: Duration) -> Result<Vec<Vec<u8>>, String> {
        let keys = keys.iter().map(|&key| key.into()).collect();
        let get = Op::Get(ExchangeGet { keys, wait_seconds: timeout.as_secs_f64() });
        let response = self.call(get, timeout + ANSWER)?;
        match response.missing.first() {
            None => Ok(response.values),
            Some(key) => Err(format!(
                "{} of the other trainers' keys were not there after {} s, first {key:?}",
                response.missing.len(),
                timeout.as_secs_f64()
            )),
        }
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, String> {
        self.call(Op::Add(ExchangeAdd { key: key.into(), amount }), ANSWER).map(|response| response.number)
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), String> {
        self.call(Op::Append(ExchangeAppend { key: key.into(), value: value.into() }), ANSWER).map(drop)
    }

    fn delete(&self, key: &str) -> Result<bool, String> {
        self.call(Op::Delete(ExchangeDelete { key: key.into() }), ANSWER).map(|response| response.number > 0)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, String> {
        let op = ExchangeCompareSet { key: key.into(), expected: expected.into(), desired: desired.into() };
        let mut response = self.call(Op::CompareSet(op), ANSWER)?;
        response.values.pop().ok_or_else(|| format!("the exchange gave no value for {key:?}"))
    }
}
