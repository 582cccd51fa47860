//! Functions of a host program, which graphs call as tools (`custom: NAME`) and as nodes (`kind: custom, use: NAME`).
//!
//! Invariant: a signature is that of the Rust function, never written by hand; a function gets arguments of its own
//! type or is not called.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Call, Tool};
use crate::event::{Body, Emitter, Scope, Sink};
use crate::failure::{ErrorKind, Failure};
use crate::id::{Owner, Part, RunId, TaskId, ThreadKey};

/// The version of a registry file.
const FORMAT: u32 = 1;

/// The functions of a host program by the names that graphs call them by.
///
/// A function is registered once and can be called both ways: as a tool, by models and `tool` nodes, and as a node of
/// the kind `custom`. Its argument and its result are types of your own; their schemas come from [`schemars`] and are held
/// against the graphs before anything runs.
///
/// ```
/// use graphloom::{Context, Failure, Registry};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize, JsonSchema)]
/// struct OpenTicket {
///     subject: String,
///     #[serde(default)]
///     urgent: bool,
/// }
///
/// #[derive(Serialize, JsonSchema)]
/// struct Ticket {
///     id: String,
/// }
///
/// async fn open_ticket(args: OpenTicket, context: Context) -> Result<Ticket, Failure> {
///     let urgent = if args.urgent { "!" } else { "" };
///     Ok(Ticket { id: format!("T-{}{urgent} for {}", args.subject.len(), context.user()) })
/// }
///
/// let registry = Registry::new().custom("tickets::open", open_ticket);
/// assert_eq!(registry.names().collect::<Vec<_>>(), ["tickets::open"]);
/// ```
///
/// [`schemars`]: https://docs.rs/schemars
#[derive(Clone, Default)]
pub struct Registry {
    functions: BTreeMap<String, Registered>,
}

/// A function as a type of its own: with its name, what it takes and gives, and what it needs for its work. Graphs call it as
/// a tool and as a node, as any other; see [`Registry::function`].
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use graphloom::{Context, ErrorKind, Failure, Function};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// /// Counts what is taken from the shelf.
/// struct Take {
///     left: AtomicU64,
/// }
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Pieces {
///     n: u64,
/// }
///
/// impl Function for Take {
///     const NAME: &'static str = "shelf::take";
///     type Args = Pieces;
///     type Output = u64;
///
///     async fn call(&self, Pieces { n }: Pieces, _: Context) -> Result<u64, Failure> {
///         let take = |left: u64| left.checked_sub(n);
///         match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
///             Ok(before) => Ok(before - n),
///             Err(left) => Err(Failure::new(ErrorKind::Tool, format!("there are only {left}"))),
///         }
///     }
/// }
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
/// let shelf = Take { left: 5.into() };
/// assert_eq!(shelf.call(Pieces { n: 3 }, context.clone()).await?, 2);
/// assert_eq!(shelf.call(Pieces { n: 3 }, context).await.unwrap_err().message, "there are only 2");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(test()).unwrap();
/// ```
pub trait Function: Send + Sync + 'static {
    /// The name that graphs call it by.
    const NAME: &'static str;
    /// Its arguments: a struct whose fields are the arguments by name; `()` takes none.
    type Args: DeserializeOwned + JsonSchema + Send + 'static;
    /// What it gives.
    type Output: Serialize + JsonSchema + 'static;

    /// Does the work. A panic is the failure of the node. Dropping the future is how a call is stopped: at a timeout, or when
    /// the run is cancelled.
    ///
    /// ```
    /// # use graphloom::{Context, Failure, Function};
    /// struct Greet;
    ///
    /// impl Function for Greet {
    ///     const NAME: &'static str = "words::greet";
    ///     type Args = ();
    ///     type Output = String;
    ///
    ///     async fn call(&self, (): (), context: Context) -> Result<String, Failure> {
    ///         Ok(format!("Hello {}!", context.user()))
    ///     }
    /// }
    /// ```
    fn call(
        &self,
        args: Self::Args,
        context: Context,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// A registered function.
#[derive(Clone)]
pub(crate) struct Registered {
    /// What it takes and gives.
    pub(crate) signature: Arc<Signature>,
    /// Itself; nothing where only a file tells of it.
    pub(crate) function: Option<Arc<dyn Tool>>,
}

/// What a function takes and gives, as JSON Schemas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signature {
    pub(crate) args: Json,
    pub(crate) result: Json,
}

/// What a registry file holds.
#[derive(Serialize, Deserialize)]
struct RegistryFile {
    format: u32,
    custom: BTreeMap<String, Arc<Signature>>,
}

/// Why a text is no registry file.
///
/// ```
/// use graphloom::{Registry, RegistryError};
///
/// let newer = Registry::from_json(r#"{"format": 2, "custom": {}}"#);
/// assert!(matches!(newer, Err(RegistryError::Format(2))));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It does not hold a registry.
    #[error("it is not what `registry` of a host program prints ({0})")]
    Parse(#[from] serde_json::Error),
    /// A later build wrote it.
    #[error("its format {0} is newer than this build, which reads {FORMAT}")]
    Format(u32),
}

impl Registry {
    /// Makes one without functions.
    ///
    /// ```
    /// assert!(graphloom::Registry::new().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function: an `async fn`, or a closure that holds what it needs. One of the same name is replaced.
    ///
    /// The argument is a struct whose fields are the arguments by name; `()` takes none. An error is a [`Failure`], or
    /// anything that becomes one. A panic is the failure of the node. Dropping the future is how a call is stopped: at a
    /// timeout, or when the run is cancelled.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use graphloom::{Context, Failure, Registry};
    ///
    /// let calls = Arc::new(AtomicU64::new(0));
    /// let registry = Registry::new().custom("demo::count", move |(): (), _: Context| {
    ///     let calls = calls.clone();
    ///     async move { Ok::<u64, Failure>(calls.fetch_add(1, Ordering::Relaxed) + 1) }
    /// });
    /// assert!(!registry.is_empty());
    /// ```
    #[must_use]
    pub fn custom<A, T, E, F, Fut>(mut self, name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned + JsonSchema + 'static,
        T: Serialize + JsonSchema + 'static,
        E: Into<Failure>,
        F: Fn(A, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.meta_schema = None;
            // What names itself is still a reference.
            settings.inline_subschemas = true;
        });
        let args = settings.clone().for_deserialize().into_generator().into_root_schema_for::<A>();
        let result = settings.for_serialize().into_generator().into_root_schema_for::<T>();
        let signature = Arc::new(Signature { args: args.into(), result: result.into() });
        let takes_nothing = signature.args["type"] == "null";
        let call = move |args: &Json, context: Context| -> BoxFuture<'static, Result<Json, Failure>> {
            let args = if takes_nothing { &Json::Null } else { args };
            let work = match A::deserialize(args) {
                Ok(args) => function(args, context),
                Err(why) => {
                    let message = format!("the arguments do not fit: {why}");
                    let failure = Failure { undone: true, ..Failure::new(ErrorKind::Schema, message) };
                    return std::future::ready(Err(failure)).boxed();
                }
            };
            let work = async move {
                let result = work.await.map_err(Into::into)?;
                serde_json::to_value(result).map_err(|why| {
                    Failure::new(ErrorKind::Schema, format!("the result cannot be written as JSON ({why})"))
                })
            };
            work.boxed()
        };
        let function: Arc<dyn Tool> = Arc::new(Erased(Box::new(call)));
        self.functions.insert(name.into(), Registered { signature, function: Some(function) });
        self
    }

    /// Adds a value that is a [`Function`], under the name that its type has. One of the same name is replaced.
    ///
    /// ```
    /// use graphloom::{Context, Failure, Function, Registry};
    ///
    /// struct Now;
    ///
    /// impl Function for Now {
    ///     const NAME: &'static str = "clock::now";
    ///     type Args = ();
    ///     type Output = String;
    ///
    ///     async fn call(&self, (): (), _: Context) -> Result<String, Failure> {
    ///         Ok("noon".into())
    ///     }
    /// }
    /// let registry = Registry::new().function(Now);
    /// assert_eq!(registry.names().collect::<Vec<_>>(), ["clock::now"]);
    /// ```
    #[must_use]
    pub fn function<F: Function>(self, function: F) -> Self {
        let function = Arc::new(function);
        self.custom(F::NAME, move |args, context| {
            let function = Arc::clone(&function);
            async move { function.call(args, context).await }
        })
    }

    /// Returns the names in order.
    ///
    /// ```
    /// # use graphloom::{Context, Failure, Registry};
    /// async fn now((): (), _: Context) -> Result<String, Failure> {
    ///     Ok("noon".into())
    /// }
    /// let registry = Registry::new().custom("clock::now", now).custom("clock::again", now);
    /// assert_eq!(registry.names().collect::<Vec<_>>(), ["clock::again", "clock::now"]);
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.functions.keys().map(String::as_str)
    }

    /// Says whether there is no function.
    ///
    /// ```
    /// assert!(graphloom::Registry::default().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.functions.get(name)
    }

    /// Writes the names and signatures for `graphloom check --registry FILE`, which has no host program to ask.
    ///
    /// ```
    /// # use graphloom::{Context, Failure, Registry};
    /// # async fn now((): (), _: Context) -> Result<String, Failure> { Ok("noon".into()) }
    /// let text = Registry::new().custom("clock::now", now).to_json();
    /// assert_eq!(Registry::from_json(&text)?.names().collect::<Vec<_>>(), ["clock::now"]);
    /// # Ok::<(), graphloom::RegistryError>(())
    /// ```
    pub fn to_json(&self) -> String {
        let custom = self.functions.iter().map(|(name, known)| (name.clone(), Arc::clone(&known.signature)));
        let file = RegistryFile { format: FORMAT, custom: custom.collect() };
        // Writing JSON and texts into memory cannot fail.
        serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
    }

    /// Reads what [`to_json`](Self::to_json) wrote. Graphs are checked against it; its functions cannot be called.
    ///
    /// ```
    /// let error = graphloom::Registry::from_json("{}").unwrap_err();
    /// assert!(error.to_string().contains("not what `registry` of a host program prints"));
    /// ```
    pub fn from_json(text: &str) -> Result<Self, RegistryError> {
        let file: RegistryFile = serde_json::from_str(text)?;
        if file.format > FORMAT {
            return Err(RegistryError::Format(file.format));
        }
        let known = |signature| Registered { signature, function: None };
        Ok(Self { functions: file.custom.into_iter().map(|(name, s)| (name, known(s))).collect() })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A function whose types are forgotten.
struct Erased(Box<Work>);

type Work = dyn Fn(&Json, Context) -> BoxFuture<'static, Result<Json, Failure>> + Send + Sync;

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Erased")
    }
}

#[async_trait]
impl Tool for Erased {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        let context = Context {
            thread: call.thread.clone(),
            run: call.run,
            caller: call.caller.clone(),
            idempotency_key: call.idempotency_key.clone(),
            attempt: call.attempt,
            emit: call.emit.clone(),
        };
        (self.0)(&call.args, context).await
    }
}

/// For whom and for what a function is called.
///
/// ```
/// use graphloom::{Context, Failure};
/// use serde_json::json;
///
/// async fn greet((): (), context: Context) -> Result<String, Failure> {
///     context.emit("progress", json!({"done": 1, "of": 1}));
///     Ok(format!("Hello {} of {}!", context.user(), context.tenant()))
/// }
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
/// assert_eq!(greet((), context).await?, "Hello ada of acme!");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(test()).unwrap();
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context {
    /// Tenant, user and session.
    pub thread: ThreadKey,
    /// The run.
    pub run: RunId,
    /// The node that calls, as `node`, `caller/node` or `node[2]`; `node/tool` where a model calls a tool.
    pub caller: String,
    /// Names the call: the same over all its attempts, also after a crash, and never used for another one. Give it to
    /// services that make a repeated request once.
    pub idempotency_key: String,
    /// The try, from 1.
    pub attempt: u32,
    emit: Emitter,
}

/// Hears nothing.
struct Silence;

impl Sink for Silence {
    fn send(&self, _place: &Scope, _body: Body) {}

    fn has_shown(&self, _place: &Scope) -> bool {
        false
    }

    fn discard(&self, _place: &Scope) {}
}

impl Context {
    /// Makes the context of a first attempt whose events nobody hears, to call a function in a test.
    ///
    /// ```
    /// let context = graphloom::Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
    /// assert_eq!((context.session(), context.attempt), ("desk", 1));
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    #[must_use]
    pub fn new(tenant: Part, user: Part, session: Part) -> Self {
        let run = RunId::new();
        let task = TaskId(run.to_string().into());
        Self {
            thread: ThreadKey { owner: Owner { tenant, user }, session },
            run,
            caller: "test".into(),
            idempotency_key: task.to_string(),
            attempt: 1,
            emit: Emitter::new(Arc::new(Silence), Scope::new("test", task, 1)),
        }
    }

    /// Returns whose data it is.
    ///
    /// ```
    /// # let context = graphloom::Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
    /// assert_eq!(context.tenant(), "acme");
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    pub fn tenant(&self) -> &str {
        self.thread.owner.tenant.as_str()
    }

    /// Returns who talks.
    ///
    /// ```
    /// # let context = graphloom::Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
    /// assert_eq!(context.user(), "ada");
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    pub fn user(&self) -> &str {
        self.thread.owner.user.as_str()
    }

    /// Returns the conversation.
    ///
    /// ```
    /// # let context = graphloom::Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
    /// assert_eq!(context.session(), "desk");
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    pub fn session(&self) -> &str {
        self.thread.session.as_str()
    }

    /// Sends a `custom` event to the readers of the stream at once, as progress of long work. It is told also when the
    /// attempt fails later.
    ///
    /// ```
    /// # let context = graphloom::Context::new("acme".parse()?, "ada".parse()?, "desk".parse()?);
    /// context.emit("progress", serde_json::json!({"read": 3, "of": 10}));
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    pub fn emit(&self, name: impl Into<String>, data: impl Into<Json>) {
        self.emit.send(Body::Custom { name: name.into(), data: data.into() });
    }
}
