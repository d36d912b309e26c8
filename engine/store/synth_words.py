"""The words that the annotations of the sample collection are made of: subjects, places, cameras, phrases."""

from typing import Final


def _apart(text: str, by: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(by))


# A line is a topic: its name as an album or a group has it, then its words, the commonest first.
TOPICS: Final = tuple(
    tuple(line.split())
    for line in """
Sunsets sunset sun sky clouds dusk evening orange horizon silhouette coucherdesoleil
Sunrises sunrise dawn morning mist light early gold fog glow amanecer
Beaches beach sea sand ocean waves shore surf coast playa pier
Mountains mountain mountains peak hiking snow alps rocks valley climbing montagne
Lakes lake water reflection reflections calm boat shore swan lago still
Forests forest trees woods tree green path leaves moss wald fern
Autumn autumn fall leaves red yellow leaf october foliage maple herbst
Winter winter snow ice cold frost white frozen january icicle hiver
Spring spring blossom cherry april garden bloom pink tulip magnolia printemps
Flowers flower flowers petals garden rose bloom macro fleur daisy blume
Roses rose roses petal pink red bouquet love garden thorn rosa
Insects insect macro bug bee butterfly wings dragonfly beetle closeup spider
Birds bird birds wings feather gull eagle heron nest flight oiseau
Ducks duck pond mallard goose swan feathers water lake wildlife ente
Dogs dog puppy pet animal cute labrador nose fur perro hund
Cats cat kitten pet animal cute whiskers eyes fur gato chat
Horses horse pony stable ride farm mane animal field gallop pferd
Zoo zoo animal lion tiger elephant giraffe monkey bear wildlife captivity
Fish fish aquarium underwater coral diving reef jellyfish shark turtle blue
Farms farm field barn hay cow sheep tractor rural countryside wheat
Portraits portrait face eyes smile girl woman model hair retrato beauty
Selfies selfportrait me self 365 365days mirror face mood day project
Children child children kid kids boy girl play toddler family laughing
Babies baby newborn infant sleeping feet tiny family love mother crib
Weddings wedding bride groom dress love couple ring church flowers party
Friends friends people party fun group smile laugh night birthday beer
Street street people candid streetphotography walking sidewalk crowd urban umbrella stranger
Protest protest demonstration march police politics people crowd banner rights speech
Concerts concert music live band guitar stage singer rock drums show
Dance dance ballet dancer performance stage motion costume theatre movement pose
Football football soccer game team stadium player match goal fans sport
Skating skateboard skate trick jump ramp ollie board park action street
Surfing surf surfing surfer wave board wetsuit barrel ocean swell spray
Cycling bike bicycle cycling ride wheel race road fixie commute fahrrad
Cars car cars auto vintage classic chrome wheel racing engine hotrod
Trains train railway station rails locomotive tracks platform steam subway metro
Planes plane aircraft airplane airport flight jet aviation cockpit wing airshow
Boats boat boats harbour ship sail sailing port marina dock fishing
Bridges bridge river steel arch span cables water crossing pont suspension
Skylines skyline city skyscraper buildings downtown urban cityscape tower view architecture
Nights night lights longexposure dark neon city moon stars nightshot noche
Architecture architecture building windows modern facade glass lines geometry concrete design
Churches church cathedral stainedglass gothic altar tower cross faith dome iglesia
Castles castle ruins medieval tower stone fortress wall history knight burg
Temples temple buddha shrine monk incense buddhism statue prayer gold pagoda
Museums museum statue sculpture art exhibition gallery marble painting history bronze
Graffiti graffiti streetart art stencil mural wall spray paint sticker paste
Markets market food stall fruit vegetables fish colours vendor bazaar shopping
Dinner food dinner restaurant plate delicious meat pasta cooking recipe comida
Desserts cake dessert chocolate cupcake sweet baking cookies sugar icecream yummy
Coffee coffee cafe cup espresso latte breakfast table morning mug caffe
Toys toy toys lego doll figure miniature robot plastic cute blythe
Books book books library reading paper shelf words letters typography page
Computers computer mac apple desk keyboard screen office technology laptop geek
Interiors room interior home house window chair lamp wall kitchen door
Abandoned abandoned decay urbex rust derelict ruin factory broken peeling forgotten
Signs sign neon letters typography arrow roadsign advertising vintage shop text
Christmas christmas tree lights santa december holiday snow gift ornament noel
Fireworks fireworks night explosion newyear colours celebration sparks july4th sky smoke
Abstracts abstract blur pattern texture colours lines shapes light bokeh motion
""".strip().splitlines()
)
ADJECTIVES: Final = _apart(
    "old blue golden little quiet wild lonely broken early last first big warm cold bright dark soft sweet happy sad "
    "lost hidden secret silver wet dusty empty crowded slow tiny giant burning falling sleeping dancing flying "
    "floating northern southern royal"
)
# What is written under photos of anything.
COMMON: Final = _apart(
    "nature explore bw blackandwhite color photo art beautiful blue 2008 2007 2009 red green travel canon nikon "
    "light interestingness white black summer digital photography vacation geotagged hdr macro cool usa europe "
    "fun 2006 squareformat film trip love home bravo topf25 abigfave searchthebest shieldofexcellence contrast "
    "weekend holiday dof slr closeup impressedbeauty goldstaraward artistic creativecommons day photos old new "
    "flickr world life bluesky naturesfinest superbmasterpiece outdoors colors project"
)
MACHINE: Final = ("geotagged:by=hand", "uploaded:by=flickrmobile", "meta:exif=1228", "camera:roll=12", "dc:type=image")

# City, country, latitude, longitude.
CITIES: Final = tuple(
    (name.strip(), country.strip(), float(latitude), float(longitude))
    for name, country, latitude, longitude in (
        city.split(",")
        for city in """
London,United Kingdom,51.507,-0.128;Paris,France,48.857,2.352;New York,United States,40.713,-74.006;
San Francisco,United States,37.775,-122.419;Barcelona,Spain,41.385,2.173;Tokyo,Japan,35.689,139.692;
Berlin,Germany,52.520,13.405;Rome,Italy,41.903,12.496;Chicago,United States,41.878,-87.630;
Seattle,United States,47.606,-122.332;Toronto,Canada,43.653,-79.383;Amsterdam,Netherlands,52.368,4.904;
Madrid,Spain,40.417,-3.704;Vancouver,Canada,49.283,-123.121;Los Angeles,United States,34.052,-118.244;
Venice,Italy,45.440,12.316;Sydney,Australia,-33.869,151.209;Hong Kong,China,22.319,114.169;
Melbourne,Australia,-37.814,144.963;Portland,United States,45.512,-122.659;Boston,United States,42.360,-71.059;
Edinburgh,United Kingdom,55.953,-3.188;Lisbon,Portugal,38.722,-9.139;Prague,Czech Republic,50.075,14.438;
Washington,United States,38.907,-77.037;Milan,Italy,45.464,9.190;Montreal,Canada,45.502,-73.567;
Vienna,Austria,48.208,16.374;Dublin,Ireland,53.350,-6.260;Austin,United States,30.267,-97.743;
Munich,Germany,48.135,11.582;Hamburg,Germany,53.551,9.994;Singapore,Singapore,1.352,103.820;
Istanbul,Turkey,41.008,28.978;Manchester,United Kingdom,53.481,-2.243;Copenhagen,Denmark,55.676,12.568;
Stockholm,Sweden,59.329,18.069;Brussels,Belgium,50.850,4.352;Philadelphia,United States,39.953,-75.164;
San Diego,United States,32.716,-117.161;Florence,Italy,43.770,11.256;Kyoto,Japan,35.012,135.768;
Bangkok,Thailand,13.756,100.502;Buenos Aires,Argentina,-34.604,-58.382;Rio de Janeiro,Brazil,-22.907,-43.173;
Mexico City,Mexico,19.433,-99.133;Taipei,Taiwan,25.033,121.565;Beijing,China,39.904,116.407;
Shanghai,China,31.230,121.474;Delhi,India,28.614,77.209;Mumbai,India,19.076,72.878;
Las Vegas,United States,36.170,-115.140;Honolulu,United States,21.307,-157.858;Denver,United States,39.739,-104.990;
Minneapolis,United States,44.978,-93.265;New Orleans,United States,29.951,-90.072;Miami,United States,25.762,-80.192;
Atlanta,United States,33.749,-84.388;Helsinki,Finland,60.170,24.938;Oslo,Norway,59.914,10.752;
Reykjavik,Iceland,64.147,-21.943;Zurich,Switzerland,47.377,8.542;Budapest,Hungary,47.498,19.040;
Warsaw,Poland,52.230,21.012;Krakow,Poland,50.065,19.945;Athens,Greece,37.984,23.728;Sevilla,Spain,37.389,-5.985;
Valencia,Spain,39.470,-0.376;Porto,Portugal,41.158,-8.629;Lyon,France,45.764,4.836;Marseille,France,43.297,5.370;
Glasgow,United Kingdom,55.864,-4.252;Cardiff,United Kingdom,51.482,-3.179;Brighton,United Kingdom,50.823,-0.137;
Auckland,New Zealand,-36.848,174.763;Wellington,New Zealand,-41.287,174.776;Cape Town,South Africa,-33.925,18.424;
Nairobi,Kenya,-1.292,36.822;Cairo,Egypt,30.044,31.236;Marrakech,Morocco,31.629,-7.981;Jerusalem,Israel,31.768,35.214;
Dubai,United Arab Emirates,25.205,55.271;Kathmandu,Nepal,27.717,85.324;Hanoi,Vietnam,21.028,105.834;
Kuala Lumpur,Malaysia,3.139,101.687;Manila,Philippines,14.600,120.984;Seoul,South Korea,37.567,126.978;
Moscow,Russia,55.756,37.617;Saint Petersburg,Russia,59.931,30.360;Kyiv,Ukraine,50.450,30.523;
Sao Paulo,Brazil,-23.551,-46.633;Lima,Peru,-12.046,-77.043;Santiago,Chile,-33.449,-70.669;
Bogota,Colombia,4.711,-74.072;Havana,Cuba,23.114,-82.367;Calgary,Canada,51.045,-114.057;
Perth,Australia,-31.950,115.861;Queenstown,New Zealand,-45.031,168.663
""".replace("\n", "").split(";")
    )
)

# Make, model, lenses, the kind of group its owners meet in.
CAMERAS: Final = tuple(
    tuple(line.split("|"))
    for line in """
Canon|Canon EOS 400D DIGITAL|18-55mm;50mm;10-22mm
Canon|Canon EOS 350D DIGITAL|18-55mm;50mm;70-200mm
Canon|Canon EOS 5D|24-105mm;50mm;70-200mm
Canon|Canon EOS 40D|17-85mm;50mm;100mm
Canon|Canon PowerShot G9|
Canon|Canon DIGITAL IXUS 70|
NIKON CORPORATION|NIKON D80|18-135mm;50mm;18-200mm
NIKON CORPORATION|NIKON D40|18-55mm;35mm;55-200mm
NIKON CORPORATION|NIKON D70|18-70mm;50mm;105mm
NIKON CORPORATION|NIKON D200|18-200mm;50mm;85mm
NIKON CORPORATION|NIKON D300|17-55mm;50mm;70-300mm
SONY|DSLR-A100|18-70mm;50mm;75-300mm
SONY|DSC-H5|
PENTAX Corporation|PENTAX K10D|16-45mm;50mm;77mm
OLYMPUS IMAGING CORP.|E-510|14-42mm;25mm;40-150mm
Panasonic|DMC-FZ50|
FUJIFILM|FinePix S5600|
Apple|iPhone|
""".strip().splitlines()
)

FIRST_NAMES: Final = _apart(
    "Anna Ben Carla Dan Eva Frank Gina Hugo Ines Jack Kaya Luis Maria Nils Olga Paul Rosa Sam Tina Uwe Vera Will Yuki "
    "Zoe Jean Marc Lena Pedro Laura Tom"
)
LAST_NAMES: Final = _apart(
    "Smith Garcia Müller Rossi Dubois Tanaka Jansen Novak Silva Lind Brown Costa Weber Martin Lopez Wilson Santos "
    "Meyer Chen Olsen Walker Ferrari Bauer Moreau Clark"
)
HANDLES: Final = _apart(
    "pixel lens shutter moon river cloud fox tiger photo film grain focus light snap wander red blue urban north "
    "little silver echo paper coffee velvet"
)

GENERAL_GROUPS: Final = _apart(
    "FlickrCentral|Views: 100|The Best of Flickr|Flickr Today (1 to 3 per day)|Photography & Art|10 Million Photos|"
    "Explore Worthy, Challenge You|Artistic Expression|Picture Perfect|Fine Gold|Black and White|HDR|"
    "Color my World|Square Format|Catchy Colors|! *The World Through My Eyes|Top-V777 (Open Group)|"
    "Beginner's Digital Photography|Creative Commons- Free Pictures|Film is not dead, it just smells funny",
    "|",
)
GROUP_FORMS: Final = (
    "{}", "{} Unlimited", "The {} Pool", "All About {}", "{} of the World", "I Love {}", "{} & More", "Best of {}",
    "{} (Post 1, Award 2)", "Only {}", "{} Addicts", "World of {}",
)  # fmt: skip

PHRASES: Final = (
    "Great shot!", "Beautiful {}!", "Lovely light on the {}.", "Wow, this is wonderful.", "Nice {} &amp; nice colours",
    "I really like the composition.", "Fantastic capture!", "Where was this taken?", "Love it &lt;3",
    "Seen in <a href=\"http://www.flickr.com/groups/central/\">FlickrCentral</a>", "The {} makes it.",
    "Gorgeous, well done!", "Excellent! <b>You deserve an award</b>", "Très belle photo !", "Che bella {}!",
    "Superb {}, faved.", "thanks for sharing",
)  # fmt: skip
NOTES: Final = ("the {}", "love this {}", "what is this?", "Nice!", "a {} &amp; me", "look here")
SENTENCES: Final = (
    "A {} I came across in {}.", "Taken near {}, a short walk from the {}.", "The {} in {} on a quiet day.",
    "{} &amp; light, {}.", "I was waiting for the {} when this happened. {}, of course.",
    "Best viewed <b>large</b>. {}, {}.", "Part of a series about {}: see the others of {}.",
)  # fmt: skip
PLAIN_TITLES: Final = (
    "Untitled", "A day out", "Friday", "Waiting", "Hello", "Looking up", "Home", "On the way", "Still", "Again",
)  # fmt: skip
