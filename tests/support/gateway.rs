//! A gateway in this process, behind a real socket.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use duologue::{
    responder::Simulated,
    server::{self, Server},
    session::{
        Access, Authenticator, CallerLimits, Drained, Gateway, NoCredentials, Responder, Settings,
        Storage,
    },
    store::MemoryStore,
    transport::{self, Origins},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::PATIENCE;

/// The parts of a gateway, which a test may replace.
pub struct Setup {
    pub session: Settings,
    pub transport: transport::Settings,
    pub server: server::Settings,
    pub storage: Storage,
    pub responder: Arc<dyn Responder>,
    pub authenticator: Arc<dyn Authenticator>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::answering(Simulated::new("Echo: {text}", std::time::Duration::ZERO))
    }
}

impl Setup {
    pub fn answering(responder: impl Responder) -> Self {
        Self {
            // Tests flood a gateway from one address.
            session: Settings { limits: CallerLimits::none(), ..Settings::default() },
            transport: transport::Settings {
                origins: Origins::development(),
                ..Default::default()
            },
            server: server::Settings {
                addr: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
                ..Default::default()
            },
            storage: Storage::unshared(Arc::new(MemoryStore::new(1000, 1 << 28))),
            responder: Arc::new(responder),
            authenticator: Arc::new(NoCredentials),
        }
    }

    /// Accepts the credentials that `authenticator` knows.
    pub fn with_access(self, access: Access, authenticator: Arc<dyn Authenticator>) -> Self {
        Self { session: Settings { access, ..self.session }, authenticator, ..self }
    }

    pub async fn start(self) -> Running {
        let Self { session, storage, responder, authenticator, .. } = self;
        let gateway = Gateway::start_with(session, storage, responder, authenticator);
        let gateway = gateway.await.unwrap();
        let server = Server::bind(self.server).unwrap();
        let addr = server.local_addr().unwrap().tcp().unwrap();
        let (shutdown, asked) = oneshot::channel::<()>();
        let core = gateway.clone();
        let serving = tokio::spawn(async move {
            let asked = async { drop(asked.await) };
            server.serve(gateway, self.transport, asked).await.unwrap()
        });
        Running { address: Address { addr }, gateway: core, shutdown: Some(shutdown), serving }
    }
}

/// The address of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub addr: SocketAddr,
}

impl Address {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// A gateway that serves until it is dropped or shut down.
pub struct Running {
    address: Address,
    pub gateway: Gateway,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Drained>,
}

impl Deref for Running {
    type Target = Address;

    fn deref(&self) -> &Address {
        &self.address
    }
}

impl Running {
    /// As SIGTERM does.
    pub fn begin_shutdown(&mut self) {
        self.shutdown.take();
    }

    pub async fn ended(self) -> Drained {
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the gateway ends").unwrap()
    }
}
