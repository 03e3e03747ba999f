"""Tools, the requests that fit them, and the forms of results and replies."""

from __future__ import annotations

# name, description, {parameter: (type, kind of value)}, requests
ARCHETYPES: tuple[tuple[str, str, dict[str, tuple[str, str]], tuple[str, ...]], ...] = (
    ("get_weather", "Get the current weather in a location.", {"location": ("string", "place")}, ("What is the weather in {location}?", "How is the weather in {location} today?", "Will it rain in {location}?", "weather {location}", "Tell me the weather for {location}.")),
    ("get_current_weather", "Call to get the weather of a city.", {"city": ("string", "place"), "unit": ("string", "unit")}, ("What's the weather like in {city} in {unit}?", "Give me the weather of {city}, in {unit} please.")),
    ("magic_function", "Applies a magic function to an input.", {"input": ("integer", "number")}, ("What is the value of magic_function({input})? Use the tool.", "Apply the magic function to {input}.", "What does the magic function give for {input}?", "Use the magic function on {input}")),
    ("add", "Add two numbers.", {"a": ("integer", "number"), "b": ("integer", "number")}, ("What is {a} + {b}?", "Add {a} and {b}.", "What is {a} plus {b}?", "sum of {a} and {b}", "Use the tool to add {a} and {b}.")),
    ("multiply", "Multiply two integers.", {"a": ("integer", "number"), "b": ("integer", "number")}, ("What is {a} times {b}?", "Multiply {a} by {b}", "{a} * {b}", "Please compute {a} times {b}.")),
    ("divide", "Divides x by y.", {"x": ("number", "decimal"), "y": ("number", "decimal")}, ("Divide {x} by {y}.", "How much is {x} divided by {y}?")),
    ("search", "Search the web.", {"query": ("string", "topic")}, ("Search the web for {query}.", "Look up {query}", "Find information on {query}.", "Can you search for {query}?")),
    ("send_email", "Send an email to a person.", {"to": ("string", "email"), "subject": ("string", "topic")}, ("Send an email to {to} about {subject}.", "Write to {to} with the subject {subject}.")),
    ("register_client", "Register a client with a remark.", {"client": ("string", "company"), "remark": ("string", "remark")}, ("Register a client called '{client}' ({remark}).", "Add the client {client}, {remark}.", "Create a client '{client}' - {remark}", "Register {client} with the remark {remark}")),
    ("create_customer", "Create a customer record.", {"customer_name": ("string", "company")}, ("Create a customer named '{customer_name}'.", "Please add the customer '{customer_name}' to the system.", "Create a customer named '{customer_name}' (a company).", "New customer: {customer_name}")),
    ("translate", "Translate a text.", {"text": ("string", "sentence"), "language": ("string", "language")}, ("Translate '{text}' into {language}.", "Please translate this into {language}: {text}")),
    ("set_alarm", "Set an alarm.", {"hour": ("integer", "hour"), "minute": ("integer", "minute")}, ("Set an alarm for {hour}:{minute}.", "Wake me at {hour}:{minute}")),
    ("set_light", "Switch a light on or off.", {"room": ("string", "room"), "on": ("boolean", "switch")}, ("Switch {on} the light in the {room}.", "Please turn {on} the lights in the {room}")),
    ("get_time", "Returns the current time.", {}, ("What time is it?", "Tell me the current time.", "time please", "What's the time now?")),
    ("list_users", "List all users.", {}, ("List all users.", "Which users are there?", "Show me the users")),
    ("magic_function_no_args", "Calculates a magic function.", {}, ("What is the value of magic_function_no_args()? Use the tool.", "Run the magic function without arguments.", "Use the magic function.")),
    ("get_status", "Status of the system.", {}, ("What is the status of the system?", "Is the system fine?", "Show the status.")),
    ("stock_price", "Get the price of a stock.", {"symbol": ("string", "symbol")}, ("What is the price of {symbol}?", "How is the {symbol} stock doing?", "stock price of {symbol}")),
    ("book_table", "Book a table in a restaurant.", {"restaurant": ("string", "company"), "people": ("integer", "small")}, ("Book a table at {restaurant} for {people} people.", "I need a table for {people} at {restaurant}.")),
    ("generate_username", "Generate a username from a name and hair color.", {"name": ("string", "person"), "hair_color": ("string", "color")}, ("{name} has {hair_color} hair. Create a username.", "Generate a username for {name} with {hair_color} hair.")),
    ("joke", "A joke to tell the user.", {"topic": ("string", "animals")}, ("Tell me a joke about {topic}.", "I want a joke about {topic}", "joke on {topic}")),
    ("greet", "Generate a greeting in a given style.", {"answer_style": ("string", "style")}, ("Generate a {answer_style} greeting.", "Using the tool, make a {answer_style} greeting.", "Greet me in {answer_style} style")),
    ("lookup_order", "Look up an order by its number.", {"order_id": ("integer", "number")}, ("Where is my order {order_id}?", "Look up order {order_id}.", "Status of order number {order_id}?")),
    ("convert_currency", "Convert money.", {"amount": ("number", "decimal"), "currency": ("string", "currency")}, ("Convert {amount} euros to {currency}.", "How much is {amount} euros in {currency}?")),
    ("play_music", "Play music.", {"artist": ("string", "person"), "shuffle": ("boolean", "shuffle")}, ("Play songs by {artist} {shuffle} shuffle.", "I want to hear {artist}, {shuffle} shuffle")),
    ("find_recipe", "Find a recipe.", {"dish": ("string", "food")}, ("Find a recipe for {dish}.", "How can I get a recipe for {dish}?", "recipe {dish}")),
    ("add_todo", "Add a task to the list.", {"task": ("string", "task")}, ("Add '{task}' to my list.", "Put '{task}' on the to-do list", "Remember to {task}.")),
    ("create_event", "Create a calendar event.", {"title": ("string", "topic"), "day": ("string", "day"), "guests": ("integer", "small")}, ("Create an event '{title}' on {day} for {guests} guests.", "Plan '{title}' on {day} with {guests} guests.")),
    ("get_population", "Population of a country or city.", {"name": ("string", "place")}, ("How many people live in {name}?", "What is the population of {name}?")),
    ("calculate_bmi", "Body mass index.", {"weight": ("number", "decimal"), "height": ("number", "decimal")}, ("Compute the BMI for weight {weight} and height {height}.", "My weight is {weight} and my height is {height}. What is my BMI?")),
    ("run_code", "Run code.", {"language": ("string", "code"), "code": ("string", "word")}, ("Run this {language} code: {code}", "Execute {code} in {language}.")),
)
TOOL_VERBS = ("get", "find", "create", "update", "delete", "check", "count", "open", "close", "move", "rate", "print", "read", "fetch", "compute", "load", "start", "stop", "reserve", "scan", "measure", "register")
PARAMETERS: tuple[tuple[str, str, str], ...] = (
    ("name", "string", "person"), ("id", "integer", "number"), ("title", "string", "topic"), ("city", "string", "place"), ("count", "integer", "small"), ("price", "number", "decimal"), ("code", "string", "symbol"), ("label", "string", "word"),
    ("company", "string", "company"), ("level", "integer", "number"), ("rate", "number", "decimal"), ("color", "string", "color"), ("day", "string", "day"), ("language", "string", "language"), ("note", "string", "foreign"), ("job", "string", "job"), ("room", "string", "room"))
FILL_FORMS = ("{Verb} the {noun} with {pairs}.", "{Verb} {noun} {pairs}", "Please {verb} a {noun} with {pairs}.", "Can you {verb} the {noun}? Use {pairs}.", "I want to {verb} the {noun}: {pairs}", "Use the tool to {verb} the {noun} with {pairs}.")
RESULT_REPLIES = ("The result is {r}.", "Here is the result: {r}", "The tool says: {r}", "{r}", "It is {r}.", "Done. The answer is {r}.")
RESULTS = ("{n}", "It's {adj} in {p}.", "{w}", "{n} degrees", "ok: {w} {n}", '{{"result": {n}}}', '{{"status": "{w}", "id": {n}}}', "{p}, {n}", "The value is {n}.", "{name} {w}", "It is {adj}.", "{adj}", "{{\"{w}\": {n}, \"name\": \"{name}\"}}", "{n} {w} in {p}", "{{\"temperature\": {n}, \"city\": \"{p}\"}}", "{name} lives in {p}.", "done", "Created {w} for {name}", "{n}.{n}", "[{n}, {n}]", "{w} is {adj} and costs {n} euros.", "The {w} opens at {n}:30 in {p}.")
WEATHER = ("sunny", "cloudy", "rainy", "cold", "windy", "foggy", "warm", "stormy")
# Requests for a tool with one parameter that do not name the parameter.
SINGLE_FORMS = ("{Verb} the {noun} of {value}.", "{Verb} the {noun} for {value}", "{Verb} {noun} {value}", "Can you {verb} the {noun} for {value}?", "Please {verb} the {noun} with {value}.", "I want to {verb} a {noun} called {value}.", "What is the {noun} of {value}?", "{value}: {verb} the {noun} please", "Use the {noun} tool on {value}.", "Using the tool, {verb} a {noun} for {value}", "How is the {noun} for {value} today?", "{verb} {noun} {value}", "Run {tool} with {value}.", "What does {tool} return for {value}?", "What is the value of {tool}({value})? Use the tool.", "Call {tool} on {value}")
PAIR_FORMS = ("{name} {value}", "{name} is {value}", "{name}: {value}", "{name} = {value}", "the {name} {value}", "{value} as {name}", "{name} '{value}'")
ERRORS = ("Error: Missing required argument '{w}'.", "Error: {w} not found.", "Error: timeout after {n} seconds", "The service is down.", "ValueError: {w} must be a number", "Error: invalid {w}", "No result for {name}.", "403: no access to {w}", "{{\"error\": \"{w} {n}\"}}", "Tool failed: {w}", "Error: {n} is out of range.", "Connection lost to {p}.")
ERROR_REPLIES = ("The tool reported a problem: {r}", "I could not finish this. The tool says: {r}", "That did not work: {r}", "There was an error: {r}", "Sorry, the tool failed with this message: {r}")
TOOL_NAMES = ("{n}", "{n}", "{n}_tool", "my_{n}", "my_{n}_tool", "{n}_v{d}", "{w}_{n}", "{n}_{w}", "{N}", "{c}", "do_{n}", "{n}_function", "{c}Tool", "{n}_api", "{n}{d}")
FORM_REQUESTS = ("Answer in JSON with the keys {keys}. {said}", "Extract {keys} as JSON: {said}", "{said} Reply with a JSON object with {keys}.", "Fill in this form as JSON ({keys}): {said}", "Return JSON with {keys}.\n\n{said}", "Give me {keys} in JSON.\nText: {said}", "{said}\nFields: {keys}. Answer with JSON only.")
