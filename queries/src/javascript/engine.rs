//! QuickJS with bounds. An engine belongs to one thread and one script; its bounds hold for each call.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::atomic::AtomicU64,
    time::Instant,
};

use datafusion_common::DataFusionError;
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Function, Object, Runtime,
    context::EvalOptions,
    function::{Args, Constructor, This},
};

use super::{MEMORY_LIMIT, Script, TIME_LIMIT, values::Converter};

/// Bytes of the stack that scripts may use; threads have at least 2 MiB.
const STACK_LIMIT: usize = 256 << 10;
/// Engines that a thread keeps; a thread that has run more scripts begins anew.
const KEPT: usize = 64;

thread_local! {
    static ENGINES: RefCell<HashMap<u64, Rc<Engine>>> = RefCell::default();
}

/// When a call is over its time.
#[derive(Default)]
struct Watch {
    /// When the script was first seen running.
    since: Cell<Option<Instant>>,
    /// Whether it was stopped.
    stopped: Cell<bool>,
}

impl Watch {
    fn reset(&self) {
        self.since.set(None);
        self.stopped.set(false);
    }

    /// Asked by QuickJS every ten thousand steps or so: calls that end before cost no look at the clock.
    #[expect(clippy::disallowed_methods, reason = "a limit on the time of a script; no result depends on it")]
    fn is_over(&self) -> bool {
        let now = Instant::now();
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        let over = now - since > TIME_LIMIT;
        self.stopped.set(self.stopped.get() || over);
        over
    }
}

pub(super) struct Engine {
    context: Context,
    watch: Rc<Watch>,
    /// Whether a call ran out of memory: what the script keeps may fill it for good.
    is_full: Cell<bool>,
}

impl Engine {
    fn start(script: &Script) -> Result<Self, String> {
        let failure = |e: rquickjs::Error| format!("cannot start JavaScript for `{}`: {e}", script.name);
        let runtime = Runtime::new().map_err(failure)?;
        runtime.set_memory_limit(MEMORY_LIMIT);
        runtime.set_max_stack_size(STACK_LIMIT);
        let watch = Rc::new(Watch::default());
        let asked = Rc::clone(&watch);
        runtime.set_interrupt_handler(Some(Box::new(move || asked.is_over())));
        let engine = Self { context: Context::full(&runtime).map_err(failure)?, watch, is_full: Cell::new(false) };
        engine.context.with(|ctx| {
            let mut options = EvalOptions::default();
            options.strict = false;
            options.filename = Some(script.file.clone());
            let loaded = ctx.eval_with_options::<(), _>(script.source.as_str(), options);
            loaded.catch(&ctx).map_err(|e| engine.failure(script, e))
        })?;
        Ok(engine)
    }

    /// What went wrong, with the line of the script.
    fn failure(&self, script: &Script, error: CaughtError<'_>) -> String {
        let name = &script.name;
        if self.watch.stopped.get() {
            return format!("`{name}` did not end within {} s and was stopped", TIME_LIMIT.as_secs());
        }
        match error {
            CaughtError::Exception(exception) => {
                let kind: Option<String> = exception.as_object().get("name").ok();
                let message = exception.message().unwrap_or_default();
                self.is_full.set(message == "out of memory");
                let at = exception.stack().as_deref().and_then(|stack| place(stack, &script.file)).unwrap_or_default();
                format!("`{name}` failed{at}: {}: {message}", kind.as_deref().unwrap_or("Error"))
            }
            CaughtError::Value(value) => {
                let thrown = value.as_string().and_then(|s| s.to_string().ok());
                format!("`{name}` threw {}", thrown.unwrap_or_else(|| format!("{value:?}")))
            }
            CaughtError::Error(error) => {
                self.is_full.set(matches!(error, rquickjs::Error::Allocation));
                format!("`{name}` failed: {error}")
            }
        }
    }

    /// Whether a call was stopped or ran out of memory: what the script holds is in no order then.
    fn is_spent(&self) -> bool {
        self.watch.stopped.get() || self.is_full.get()
    }

    /// The next call of the script on this thread gets a new engine.
    fn leave_if_spent(&self, script: &Script) {
        if self.is_spent() {
            ENGINES.with_borrow_mut(|engines| engines.remove(&script.id));
        }
    }
}

/// ` at file:line` of the innermost call that lies in the script.
fn place(stack: &str, file: &str) -> Option<String> {
    let rest = &stack[stack.find(&format!("{file}:"))? + file.len() + 1..];
    let line: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(format!(" at {file}:{line}"))
}

/// The engine of a script on this thread.
fn engine(script: &Script) -> Result<Rc<Engine>, String> {
    if let Some(engine) = ENGINES.with_borrow(|engines| engines.get(&script.id).cloned()) {
        return Ok(engine);
    }
    let engine = Rc::new(Engine::start(script)?);
    ENGINES.with_borrow_mut(|engines| {
        if engines.len() >= KEPT {
            engines.clear();
        }
        engines.insert(script.id, Rc::clone(&engine));
    });
    Ok(engine)
}

/// Name of the function to call: `main`, or the only one.
pub(super) fn entry(script: &Script) -> Result<String, String> {
    let engine = Engine::start(script)?;
    let blank = Script {
        source: String::new(),
        file: script.file.clone(),
        name: script.name.clone(),
        entry: String::new(),
        id: 0,
        failures: AtomicU64::new(0),
    };
    let builtin = Engine::start(&blank)?.functions();
    let mut declared = engine.functions();
    declared.retain(|name| !builtin.contains(name));
    match declared.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!("`{}` declares no function; write `function main(x) {{ return x; }}`", script.file)),
        many if many.iter().any(|name| name == "main") => Ok("main".to_owned()),
        many => Err(format!(
            "`{}` declares several functions ({}); name the one to call `main`",
            script.file,
            many.join(", ")
        )),
    }
}

impl Engine {
    /// Names of the functions at the top level.
    fn functions(&self) -> Vec<String> {
        self.context.with(|ctx| {
            let globals = ctx.globals();
            let names = ctx.eval::<Vec<String>, _>("Object.getOwnPropertyNames(globalThis)").unwrap_or_default();
            names.into_iter().filter(|name| globals.get::<_, Function<'_>>(name.as_str()).is_ok()).collect()
        })
    }
}

/// Whether the function makes objects with the methods of an aggregate.
pub(super) fn check_aggregate(script: &Script) -> Result<(), String> {
    let engine = engine(script)?;
    engine.watch.reset();
    engine.context.with(|ctx| {
        let instance = instance(&ctx, script).catch(&ctx).map_err(|e| engine.failure(script, e))?;
        for method in ["init", "accumulate", "computeResult"] {
            if instance.get::<_, Function<'_>>(method).is_err() {
                return Err(format!(
                    "`{}` has no method `{method}`; an aggregate sets this.init, this.accumulate and this.computeResult",
                    script.file
                ));
            }
        }
        Ok(())
    })
}

fn instance<'js>(ctx: &Ctx<'js>, script: &Script) -> rquickjs::Result<Object<'js>> {
    let constructor: Constructor<'js> = ctx.globals().get(script.entry.as_str())?;
    constructor.construct(())
}

/// Calls a function once for each row. `push` puts the arguments of a row, `take` takes its result, and `fail` what became of a
/// call that failed: an error ends it all, otherwise the row has no value.
pub(super) fn each_row(
    script: &Script,
    rows: usize,
    arity: usize,
    push: impl for<'js> Fn(&Converter<'js>, &mut Args<'js>, usize) -> rquickjs::Result<()>,
    mut take: impl for<'js> FnMut(&Converter<'js>, rquickjs::Value<'js>) -> rquickjs::Result<()>,
    mut fail: impl FnMut(String) -> Result<(), DataFusionError>,
) -> Result<(), DataFusionError> {
    let mut next = 0;
    while next < rows {
        let engine = engine(script).map_err(DataFusionError::Execution)?;
        engine.context.with(|ctx| {
            let failure = |e| DataFusionError::Execution(engine.failure(script, e));
            let function: Function<'_> = ctx.globals().get(script.entry.as_str()).catch(&ctx).map_err(failure)?;
            let converter = Converter::new(&ctx).catch(&ctx).map_err(failure)?;
            while next < rows && !engine.is_spent() {
                engine.watch.reset();
                let mut args = Args::new(ctx.clone(), arity);
                let called = push(&converter, &mut args, next).and_then(|()| function.call_arg(args));
                next += 1;
                if let Err(error) = called.and_then(|value| take(&converter, value)).catch(&ctx) {
                    let message = engine.failure(script, error);
                    engine.leave_if_spent(script);
                    fail(message)?;
                    let nothing = rquickjs::Value::new_undefined(ctx.clone());
                    take(&converter, nothing).catch(&ctx).map_err(failure)?;
                }
            }
            Ok::<_, DataFusionError>(())
        })?;
    }
    Ok(())
}

/// Makes an aggregate, hands it the values with their event times in microseconds, and gives its result as JSON.
pub(super) fn aggregate<'a>(
    script: &Script,
    values: impl Iterator<Item = (i64, Option<&'a str>)>,
) -> Result<Option<String>, String> {
    let engine = engine(script)?;
    engine.context.with(|ctx| {
        let failure = |error| {
            let message = engine.failure(script, error);
            engine.leave_if_spent(script);
            message
        };
        let run = || {
            let converter = Converter::new(&ctx)?;
            engine.watch.reset();
            let instance = instance(&ctx, script)?;
            let method = |name: &str| instance.get::<_, Function<'_>>(name);
            let (init, accumulate, result) = (method("init")?, method("accumulate")?, method("computeResult")?);
            let this = || This(instance.clone());
            init.call::<_, ()>((this(),))?;
            for (time, value) in values {
                engine.watch.reset();
                let value = match value {
                    Some(json) => ctx.json_parse(json)?,
                    None => rquickjs::Value::new_null(ctx.clone()),
                };
                accumulate.call::<_, ()>((this(), value, converter.date(time)?))?;
            }
            engine.watch.reset();
            converter.json(result.call((this(),))?)
        };
        run().catch(&ctx).map_err(failure)
    })
}
